//! The end of a context: closed by its last owner, or dropped.

use std::{fmt, sync::Arc};

use super::{ContextInner, GreenContext};
use crate::{Error, Result};

/// Why [`GreenContext::close`] did not close a context, with the context where it is as it was.
///
/// As an [`Error`], by `?` too, it lets go of the context, which then ends with the last of its holders.
#[derive(Debug)]
pub struct CloseError {
    context: Option<GreenContext>,
    error: Error,
}

impl CloseError {
    /// Why.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The context, unless the driver has destroyed it, and why it was not closed.
    pub fn into_parts(self) -> (Option<GreenContext>, Error) {
        (self.context, self.error)
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for CloseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<CloseError> for Error {
    fn from(refused: CloseError) -> Self {
        refused.error
    }
}

impl GreenContext {
    /// Waits for its work and destroys it.
    ///
    /// # Errors
    /// With the context, [`Error::ContextInUse`] where clones, streams or guards still hold it, forgotten
    /// guards too, and [`Error::ContextIsCurrent`] where foreign code made it current to this thread (what
    /// other threads have current, the driver does not tell: whatever activates it through this crate holds
    /// it); or the driver's refusal. The context comes back unless the driver has destroyed it.
    #[doc(alias = "cuGreenCtxDestroy")]
    pub fn close(self) -> Result<(), CloseError> {
        let in_use = |inner, holders| {
            let id = "to be closed".into();
            Self { inner }.not_closed(Error::ContextInUse { id, holders })
        };
        if self.holders() == 1 && self.inner.taken() == 0 {
            match self.inner.is_current() {
                Ok(false) => {}
                Ok(true) => return self.not_closed(Error::ContextIsCurrent),
                Err(error) => return self.not_closed(error),
            }
        }
        match Arc::try_unwrap(self.inner) {
            Ok(inner) if inner.taken() > 0 => {
                let forgotten = inner.taken();
                in_use(Arc::new(inner), forgotten)
            }
            Ok(mut inner) => inner.destroy().map_err(|error| CloseError {
                context: None,
                error,
            }),
            Err(inner) => {
                let holders = Arc::strong_count(&inner) - 1;
                in_use(inner, holders)
            }
        }
    }

    fn not_closed(self, error: Error) -> Result<(), CloseError> {
        Err(CloseError {
            context: Some(self),
            error,
        })
    }
}

impl ContextInner {
    /// Waits for the work in it and destroys the driver's objects.
    fn destroy(&mut self) -> Result<()> {
        self.partition
            .take()
            .map_or(Ok(()), |partition| partition.destroy(&self.device))
    }

    /// Whether it is current to this thread.
    pub(super) fn is_current(&self) -> Result<bool> {
        let Some(partition) = &self.partition else {
            return Ok(false); // the primary context is not ours to destroy
        };
        let mut current = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        let result = unsafe { self.driver.api().cuCtxGetCurrent(&mut current) };
        self.driver.check("cuCtxGetCurrent", result)?;
        Ok(partition.has_context(current))
    }
}

impl Drop for ContextInner {
    fn drop(&mut self) {
        if self.taken() == 0 && matches!(self.is_current(), Ok(true)) {
            // Foreign code made it current. Destroyed, it would stay so as a dangling handle (measured): no
            // context is better. One whose guard was forgotten is not destroyed at all.
            // SAFETY: null is allowed.
            let result = unsafe { self.driver.api().cuCtxSetCurrent(std::ptr::null_mut()) };
            self.driver.check_in_drop("cuCtxSetCurrent", result);
        }
        if let Err(error) = self.destroy() {
            log::error!("destroying a green context: {error}");
        }
    }
}

//! The end of a context: closed by its last owner, or dropped.

use std::{fmt, sync::Arc};

use super::{ContextInner, GreenContext};
use crate::{
    error::{Error, Result},
    events::{PartitionEvent, emit},
};

/// Why [`GreenContext::close`] did not close a context, with the context where it is as it was.
///
/// As an [`Error`], by `?` too, it lets go of the context, which then ends with the last of its holders. Where it is
/// current to the thread that lets go of it last, that thread has no current context then.
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
        let not_closed = |inner, error| {
            let context = Some(Self { inner });
            Err(CloseError { context, error })
        };
        let in_use = |holders| Error::ContextInUse {
            id: "to be closed".into(),
            holders,
        };
        // What is looked at below, nobody else can change any more.
        let mut inner = match Arc::try_unwrap(self.inner) {
            Ok(inner) => inner,
            Err(inner) => {
                let holders = Arc::strong_count(&inner) - 1;
                return not_closed(inner, in_use(holders));
            }
        };
        let refused = match (inner.taken(), inner.is_current()) {
            (0, Ok(false)) => None,
            (0, Ok(true)) => Some(Error::ContextIsCurrent),
            (0, Err(error)) => Some(error),
            (forgotten, _) => Some(in_use(forgotten)),
        };
        if let Some(error) = refused {
            return not_closed(Arc::new(inner), error);
        }
        match inner.destroy() {
            Ok(()) => Ok(()),
            Err(error) if inner.partition.is_some() => not_closed(Arc::new(inner), error),
            Err(error) => Err(CloseError {
                context: None,
                error,
            }),
        }
    }
}

impl ContextInner {
    /// Waits for the work in it and destroys the driver's objects. Where it cannot wait, its SMs are not idle for
    /// all that is known, and it is as it was.
    fn destroy(&mut self) -> Result<()> {
        let Some(partition) = &self.partition else {
            return Ok(());
        };
        if partition.seats.taken() > 0 {
            log::warn!("a context guard was forgotten: its green context is never destroyed");
            self.leak("a guard was forgotten");
            return Ok(());
        }
        // Their SMs must be idle when others get them.
        let idle = partition.synchronize(&self.driver);
        // After a fault that stays nothing runs, and nothing can be waited for.
        if idle.is_err() && !self.driver.is_poisoned() {
            return idle;
        }
        let partition = self.partition.take();
        let destroyed = partition.map_or(Ok(()), |partition| {
            let green_contexts = partition.seats.count();
            partition.destroy(&self.driver)?;
            emit(|| PartitionEvent::ContextDestroyed {
                device: self.device.ordinal(),
                sms: self.shape.sm_count,
                green_contexts,
            });
            Ok(())
        });
        idle.and(destroyed)
    }

    fn leak(&mut self, reason: &'static str) {
        if let Some(partition) = self.partition.take() {
            emit(|| PartitionEvent::ContextKept {
                device: self.device.ordinal(),
                sms: self.shape.sm_count,
                reason,
            });
            partition.leak();
        }
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
            // Once more, for what passes: nobody else can.
            if self.partition.is_some() && self.destroy().is_err() {
                self.leak("its work cannot be waited for");
            }
        }
    }
}

//! The end of a context: closed by its last owner, or dropped.

use std::{fmt, sync::Arc};

use crate::{
    error::{Error, Result},
    partition::GreenContext,
};

/// Why [`GreenContext::close`] did not close a context, with the context where it is as it was.
///
/// As an [`Error`], by `?` too, it lets go of the context, which then ends with the last of its holders. Where it is
/// current to the thread that lets go of it last, that thread has no current context then.
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

/// Says what `Display` says.
impl fmt::Debug for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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

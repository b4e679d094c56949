//! Closing a context, with an error if it cannot be closed.

use std::{fmt, sync::Arc};

use crate::{
    error::{Error, Result},
    partition::GreenContext,
};

/// The error of [`GreenContext::close`], which gives the context back unless the driver has destroyed it.
///
/// Converting it into [`Error`] (`?` does) drops the context; it is destroyed when its last user is gone. If it is
/// current to the thread that drops it last, that thread then has no current context.
pub struct CloseError {
    context: Option<GreenContext>,
    error: Error,
}

impl CloseError {
    /// Returns the reason why the context was not closed.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns the context, unless the driver has destroyed it, and the reason why it was not closed.
    pub fn into_parts(self) -> (Option<GreenContext>, Error) {
        (self.context, self.error)
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// Formats like `Display`.
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
    /// Waits for the context's work and destroys it.
    ///
    /// # Errors
    /// [`Error::ContextInUse`] if clones, streams or guards, including forgotten guards, still hold it;
    /// [`Error::ContextIsCurrent`] if foreign code made it current to this thread (the driver does not say what other
    /// threads have current, but guards of this crate count as users); or the driver's refusal. The error contains the
    /// context unless the driver has destroyed it.
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
        // From here on this is the only handle, so the state that is checked below cannot change.
        let mut inner = match Arc::try_unwrap(self.inner) {
            Ok(inner) => inner,
            Err(inner) => {
                let holders = Arc::strong_count(&inner) - 1;
                return not_closed(inner, in_use(holders));
            }
        };
        let refused = match (inner.use_count(), inner.is_current()) {
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

//! A value that is initialised on first use by a function that may fail.

use std::sync::OnceLock;

use crate::{error::Result, sync::Mutex};

/// A value that is initialised at most once, by one thread while the others wait. A failure is not kept: the next call
/// tries again.
pub(crate) struct Once<T> {
    value: OnceLock<T>,
    making: Mutex<()>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self {
            value: OnceLock::new(),
            making: Mutex::new(()),
        }
    }
}

impl<T> Once<T> {
    /// Returns the value, if it is initialised.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Returns the value, and initialises it first if it is not yet.
    #[inline]
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        let _making = self.making.lock();
        if let Some(value) = self.value.get() {
            return Ok(value);
        }
        let value = make()?;
        Ok(self.value.get_or_init(|| value))
    }

    /// Runs `action` if the value is not initialised yet, and keeps other threads from initialising it meanwhile.
    pub(crate) fn before_made<R>(&self, action: impl FnOnce() -> R) -> Option<R> {
        let _making = self.making.lock();
        self.value.get().is_none().then(action)
    }

    /// Takes the value out, if it is initialised.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.value.take()
    }
}

//! A value that is made when it is first asked for, and whose making may fail.

use std::sync::OnceLock;

use crate::{error::Result, sync::Mutex};

/// Made at most once, by one thread while the others wait; a failure is not kept, so the next asks again.
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
    /// The value, if it was made.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, made here if it was not.
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

    /// Does something while the value is surely not made yet; nothing where it was.
    pub(crate) fn before_made<R>(&self, action: impl FnOnce() -> R) -> Option<R> {
        let _making = self.making.lock();
        self.value.get().is_none().then(action)
    }

    /// Takes the value out, if it was made.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.value.take()
    }
}

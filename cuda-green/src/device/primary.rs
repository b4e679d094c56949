//! The primary context, retained once and made current for calls that need a context, and its stream priorities.

use std::{ffi::c_int, ops::RangeInclusive};

use cuda_green_sys::CUcontext;

use super::{
    cuda_device::{CudaDevice, Primary},
    priority::ContextPriority,
};
use crate::{
    driver::{Driver, log_failure},
    error::Result,
};

impl CudaDevice {
    /// Returns the raw handle of the primary context, which is retained until the last handle of this device is
    /// dropped.
    ///
    /// The context must not be destroyed or reset.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuDevicePrimaryCtxRetain")]
    pub fn raw_primary_context(&self) -> Result<CUcontext> {
        Ok(self.primary()?.context)
    }

    /// Returns the range of stream priorities that the device offers, as the driver's numbers: lower numbers have
    /// precedence. On an H200 the range is 0 to -5 (measured).
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuCtxGetStreamPriorityRange")]
    pub fn stream_priorities(&self) -> Result<RangeInclusive<c_int>> {
        let (least, greatest) = self.primary()?.priorities;
        Ok(greatest..=least)
    }

    /// Maps a priority to a number in the range that the device offers; lower numbers have precedence.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuCtxGetStreamPriorityRange")]
    pub fn stream_priority(&self, priority: ContextPriority) -> Result<c_int> {
        let (least, greatest) = self.primary()?.priorities;
        Ok(priority.within(least, greatest))
    }

    /// Runs a closure with the primary context current, then restores the previous current context.
    pub(crate) fn with_primary<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let context = self.primary()?.context;
        self.with_current(context, action)
    }

    /// Runs a closure with a context current, then restores the previous current context, also after a panic.
    pub(crate) fn with_current<T>(
        &self,
        context: CUcontext,
        action: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        struct Pushed<'a>(&'a Driver);
        impl Drop for Pushed<'_> {
            fn drop(&mut self) {
                let mut popped = std::ptr::null_mut();
                // SAFETY: the pointer is valid for the one handle that is written.
                log_failure(unsafe { self.0.cuCtxPopCurrent_v2(&mut popped) });
            }
        }
        // SAFETY: the caller holds the object whose context this is.
        unsafe { self.driver().cuCtxPushCurrent_v2(context) }?;
        let _pushed = Pushed(self.driver());
        action()
    }

    /// Returns the primary context, retaining it at the first call.
    fn primary(&self) -> Result<&Primary> {
        self.inner.primary.get_or_make(|| self.retain())
    }

    fn retain(&self) -> Result<Primary> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        unsafe {
            self.driver()
                .cuDevicePrimaryCtxRetain(&mut context, self.raw())
        }?;
        let (mut least, mut greatest) = (0, 0);
        let range = self.with_current(context, || {
            // SAFETY: both pointers are valid for the one integer each that is written.
            unsafe {
                self.driver()
                    .cuCtxGetStreamPriorityRange(&mut least, &mut greatest)
            }
        });
        match range {
            Ok(()) => Ok(Primary {
                context,
                priorities: (least, greatest),
            }),
            Err(error) => {
                // SAFETY: this releases the retain above, which nothing else uses.
                log_failure(unsafe { self.driver().cuDevicePrimaryCtxRelease_v2(self.raw()) });
                Err(error)
            }
        }
    }
}

//! The crate's own calls beside somebody's capture.

use cuda_green_sys::CUstreamCaptureMode;

use super::Driver;

/// Puts a thread's capture mode back when dropped: see [`Driver::beside_captures`].
#[must_use = "the thread's mode is put back when this is dropped"]
pub(crate) struct BesideCaptures<'a> {
    driver: &'a Driver,
    /// The mode before; none where it could not be exchanged.
    previous: Option<CUstreamCaptureMode>,
}

impl Driver {
    /// Lets this thread wait, ask, allocate and free beside captures, its own and others', until the guard is dropped.
    ///
    /// A capture of mode `Global` or `ThreadLocal` forbids these calls: they answer 900, and spoil the capture. They
    /// are forbidden because a client might wait for work that is only captured. What this crate waits for on its own
    /// account is never captured, so it works in the relaxed mode, where all of these calls succeed and the capture
    /// ends well (measured on an H200, driver 580).
    ///
    /// Where the mode cannot be exchanged, the calls that follow fail by themselves.
    pub(crate) fn beside_captures(&self) -> BesideCaptures<'_> {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let exchanged = self.exchange_capture_mode(&mut mode);
        BesideCaptures {
            driver: self,
            previous: exchanged.then_some(mode),
        }
    }

    /// The same for a thread of this crate's own, until the thread ends.
    pub(crate) fn always_beside_captures(&self) {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        if !self.exchange_capture_mode(&mut mode) {
            log::debug!("a thread of this crate's own may spoil captures");
        }
    }

    fn exchange_capture_mode(&self, mode: &mut CUstreamCaptureMode) -> bool {
        // SAFETY: the pointer is valid for the one mode that is read and written.
        let result = unsafe { self.api().cuThreadExchangeStreamCaptureMode(mode) };
        // Not by `check`: that the driver is lost is for the calls that follow to say.
        matches!(result, Ok(cuda_green_sys::CUresult::CUDA_SUCCESS))
    }
}

impl Drop for BesideCaptures<'_> {
    fn drop(&mut self) {
        if let Some(mut mode) = self.previous
            && !self.driver.exchange_capture_mode(&mut mode)
        {
            log::warn!("this thread's capture mode could not be put back");
        }
    }
}

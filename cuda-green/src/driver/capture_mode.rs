//! Calls of the crate itself that must neither fail in nor invalidate a stream capture.

use cuda_green_sys::CUstreamCaptureMode;

use super::loaded::Driver;

/// Restores a thread's capture mode when dropped: see [`Driver::beside_captures`].
#[must_use = "the thread's capture mode is restored when this is dropped"]
pub(crate) struct BesideCaptures<'a> {
    driver: &'a Driver,
    /// The mode before; `None` if it could not be exchanged.
    previous: Option<CUstreamCaptureMode>,
}

impl Driver {
    /// Lets this thread wait, query, allocate and free during captures, its own and those of other threads, until the
    /// returned guard is dropped.
    ///
    /// A capture of mode `Global` or `ThreadLocal` forbids these calls: they fail with code 900 and invalidate the
    /// capture. CUDA forbids them because a client might wait for work that is only captured. This crate never waits
    /// internally for captured work, so it uses the relaxed mode, in which all of these calls succeed and the capture
    /// stays valid (measured on an H200, driver 580).
    ///
    /// If the mode cannot be exchanged, the calls that follow report the error.
    pub(crate) fn beside_captures(&self) -> BesideCaptures<'_> {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let exchanged = self.exchange_capture_mode(&mut mode);
        BesideCaptures {
            driver: self,
            previous: exchanged.then_some(mode),
        }
    }

    /// Does the same as [`beside_captures`](Self::beside_captures) for one of this crate's threads, until that thread
    /// ends.
    pub(crate) fn always_beside_captures(&self) {
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        if !self.exchange_capture_mode(&mut mode) {
            log::debug!(
                "the capture mode of a thread of this crate could not be relaxed; it may invalidate captures"
            );
        }
    }

    /// Sets this thread's capture mode and puts the previous one into `mode`. Returns whether that worked.
    fn exchange_capture_mode(&self, mode: &mut CUstreamCaptureMode) -> bool {
        // SAFETY: the pointer is valid for the one mode that is read and written.
        let result = unsafe { self.api().cuThreadExchangeStreamCaptureMode(mode) };
        // Without `check`: if the driver is unusable, the calls that follow report it.
        matches!(result, Ok(cuda_green_sys::CUresult::CUDA_SUCCESS))
    }
}

impl Drop for BesideCaptures<'_> {
    fn drop(&mut self) {
        if let Some(mut mode) = self.previous
            && !self.driver.exchange_capture_mode(&mut mode)
        {
            log::warn!("this thread's capture mode could not be restored");
        }
    }
}

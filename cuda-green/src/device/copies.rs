//! Synchronous copies, each in a stream that no other copy uses meanwhile.

use std::{ffi::c_void, time::Duration};

use cuda_green_sys::{CUpointer_attribute, CUresult, CUstream, CUstream_flags};

use super::{copy_streams::CopyStream, cuda_device::CudaDevice};
use crate::error::{Error, Result, not_ready_is_false};

/// Number of failed waits and queries after which a copy counts as unfinished.
const TRIES: u32 = 3;
/// Pause between a failed wait and the next attempt.
const PAUSE: Duration = Duration::from_micros(100);

impl CudaDevice {
    /// Lets `work` put a copy into a stream, and waits for the copy, also during captures. `host` is the host memory
    /// that the copy reads or writes, if any. If the wait fails, `unfinished` gets the stream, to record the copy's
    /// end.
    ///
    /// Pageable memory is no longer used when the driver's call returns, because the driver stages it. Pinned memory
    /// is still used then, so the wait for such a copy goes on until it has ended or the device is lost, whatever the
    /// driver refuses meanwhile.
    ///
    /// The stream is non-blocking and in the primary context. The default stream would not do: on an H200, a
    /// synchronous copy of pageable memory returns before its end, and non-blocking streams, which all streams of this
    /// crate are, do not wait for it. It would also invalidate the captures of blocking streams.
    pub(crate) fn in_copy_stream(
        &self,
        host: Option<*const c_void>,
        work: impl FnOnce(CUstream) -> Result<()>,
        unfinished: impl FnOnce(CUstream),
    ) -> Result<()> {
        let _allowed = self.driver().beside_captures();
        let stream = match self.inner.copy_streams.pop() {
            Some(stream) => stream,
            None => self.create_copy_stream()?,
        };
        let begun = work(stream.0);
        // Waits after an error too: part of the work may have begun.
        match self.wait_for_copy(stream, host.filter(|_| begun.is_ok())) {
            Ok(()) => {
                self.inner.copy_streams.push(stream);
                begun
            }
            Err(error) => {
                unfinished(stream.0);
                // The stream is not reused: another copy in it would wait for this one unknowingly.
                let device = self.clone();
                self.end("a copy stream", move || {
                    device.synchronize_copy(stream)?;
                    // SAFETY: the stream is live and idle, and destroyed here; this is not tried again after it
                    // succeeded.
                    unsafe { device.driver().cuStreamDestroy_v2(stream.0) }
                });
                begun.and(Err(error))
            }
        }
    }

    /// Waits for a copy through refusals: at most [`TRIES`] of them, but without limit if the memory may be pinned.
    fn wait_for_copy(&self, stream: CopyStream, host: Option<*const c_void>) -> Result<()> {
        let mut refusals = 0;
        loop {
            let Err(error) = self.synchronize_copy(stream) else {
                return Ok(());
            };
            if is_lost(&error) {
                return Err(error);
            }
            // SAFETY: the stream is live.
            let asked = unsafe { self.driver().cuStreamQuery(stream.0) };
            match not_ready_is_false(asked) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => refusals += 1,
            }
            if refusals >= TRIES && !host.is_some_and(|host| self.may_be_pinned(host)) {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn synchronize_copy(&self, stream: CopyStream) -> Result<()> {
        // SAFETY: the stream is live.
        unsafe { self.driver().cuStreamSynchronize(stream.0) }
    }

    /// Returns whether the host memory may be pinned: whether the driver knows the address.
    fn may_be_pinned(&self, host: *const c_void) -> bool {
        let mut kind = 0u32;
        // SAFETY: this attribute is a 32-bit number; any address may be queried.
        let result = unsafe {
            self.driver().api().cuPointerGetAttribute(
                std::ptr::from_mut(&mut kind).cast(),
                CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                host.addr() as u64,
            )
        };
        !matches!(result, Ok(CUresult::CUDA_ERROR_INVALID_VALUE))
    }

    fn create_copy_stream(&self) -> Result<CopyStream> {
        let mut stream = std::ptr::null_mut();
        self.with_primary(|| {
            let flags = CUstream_flags::CU_STREAM_NON_BLOCKING.0;
            // SAFETY: the output is valid, and the stream's context is current.
            unsafe {
                self.driver()
                    .cuStreamCreateWithPriority(&mut stream, flags, 0)
            }
        })?;
        Ok(CopyStream(stream))
    }
}

/// Returns whether an error says that nothing runs any more on the device or in the stream's context.
fn is_lost(error: &Error) -> bool {
    match error {
        Error::Poisoned { .. } | Error::Forked { .. } => true,
        Error::Driver { code, .. } => matches!(
            *code,
            CUresult::CUDA_ERROR_NOT_INITIALIZED
                | CUresult::CUDA_ERROR_DEINITIALIZED
                | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
                | CUresult::CUDA_ERROR_NO_DEVICE
                | CUresult::CUDA_ERROR_INVALID_CONTEXT
                | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
                | CUresult::CUDA_ERROR_INVALID_HANDLE
        ),
        _ => false,
    }
}

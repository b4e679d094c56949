//! The streams of a context, which are checked for captures before the whole context is recorded: recording it would
//! invalidate a capture.

use cuda_green_sys::{CUstream, CUstreamCaptureStatus};

use crate::{
    driver::Driver,
    error::{Error, Result},
    sync::{Mutex, MutexGuard},
};

/// The live streams that this crate made in a context. Streams that foreign code made are not among them.
#[derive(Default)]
pub(crate) struct LiveStreams(Mutex<Vec<RawStream>>);

#[derive(PartialEq, Eq)]
struct RawStream(CUstream);

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for RawStream {}

impl LiveStreams {
    /// Adds a stream that was just made.
    pub(crate) fn add(&self, stream: CUstream) {
        self.lock().push(RawStream(stream));
    }

    /// Removes a stream. Must be called before the stream is destroyed.
    pub(crate) fn remove(&self, stream: CUstream) {
        let mut streams = self.lock();
        if let Some(index) = streams.iter().rposition(|own| own.0 == stream) {
            streams.swap_remove(index);
        }
    }

    /// Begins a capture of one of the streams, while no other thread records the context.
    pub(crate) fn begin_capture<T>(&self, begin: impl FnOnce() -> T) -> T {
        let _streams = self.lock();
        begin()
    }

    /// Runs an action that records the context or makes it wait, if none of its streams is in a capture. Otherwise the
    /// driver would refuse the action and invalidate the capture (measured on an H200, driver 580).
    ///
    /// # Errors
    /// [`Error::ContextInCapture`].
    pub(crate) fn outside_captures<T>(
        &self,
        driver: &Driver,
        action: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let streams = self.lock();
        for stream in &*streams {
            let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
            // SAFETY: the stream is live, as it is removed before its end; the output is valid.
            unsafe { driver.cuStreamIsCapturing(stream.0, &mut status) }?;
            if status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
                return Err(Error::ContextInCapture);
            }
        }
        action()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RawStream>> {
        self.0.lock()
    }
}

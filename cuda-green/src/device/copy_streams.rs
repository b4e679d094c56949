//! Streams for synchronous copies, each used by one copy at a time.

use cuda_green_sys::CUstream;

use crate::{
    driver::{Driver, log_failure},
    sync::Mutex,
};

/// The idle copy streams. Busy and idle, there are as many as copies ever ran at once.
#[derive(Default)]
pub(super) struct CopyStreams(Mutex<Vec<CopyStream>>);

/// A stream for copies.
#[derive(Clone, Copy)]
pub(super) struct CopyStream(pub(super) CUstream);

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for CopyStream {}

impl CopyStreams {
    /// Takes an idle stream.
    pub(super) fn pop(&self) -> Option<CopyStream> {
        let mut idle = self.0.lock();
        idle.pop()
    }

    /// Returns a stream in which nothing runs.
    pub(super) fn push(&self, stream: CopyStream) {
        let mut idle = self.0.lock();
        idle.push(stream);
    }

    /// Destroys the streams, at the device's end.
    pub(super) fn destroy(&self, driver: &Driver) {
        while let Some(CopyStream(stream)) = self.pop() {
            // SAFETY: the stream is live and idle, and this is its end.
            log_failure(unsafe { driver.cuStreamDestroy_v2(stream) });
        }
    }
}

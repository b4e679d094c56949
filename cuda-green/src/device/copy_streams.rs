//! Streams for copies that the caller waits for, lent to one copy at a time.

use std::sync::{Mutex, PoisonError};

use cuda_green_sys::{CUstream, CUstream_flags};

use super::CudaDevice;
use crate::{Driver, Event, Result};

/// The streams that no copy uses now. There are as many as copies ever ran at once.
#[derive(Default)]
pub(super) struct CopyStreams(Mutex<Vec<Idle>>);

struct Idle(CUstream);

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for Idle {}

impl CudaDevice {
    /// Runs something that puts work into a stream, and waits for that work, beside captures too. Where it cannot be
    /// waited for, `unfinished` gets an event at its end, or none where that cannot be recorded either.
    ///
    /// The stream is non-blocking and in the primary context. A default stream would not do: on an H200, a
    /// synchronous copy of pageable memory returns before its end, and streams that are non-blocking, as all of this
    /// crate's are, do not wait for it. It would also spoil the captures of blocking streams.
    pub(crate) fn in_copy_stream(
        &self,
        work: impl FnOnce(CUstream) -> Result<()>,
        unfinished: impl FnOnce(Option<Event>),
    ) -> Result<()> {
        let _allowed = self.driver().beside_captures();
        let stream = match self.inner.copy_streams.pop() {
            Some(stream) => stream,
            None => self.create_copy_stream()?,
        };
        let begun = work(stream);
        // Also after an error: part of the work may have begun.
        // SAFETY: the stream is live, and nobody else's now.
        let result = unsafe { self.api().cuStreamSynchronize(stream) };
        let ended = self.driver().check("cuStreamSynchronize", result);
        if ended.is_err() {
            unfinished(self.record_end(stream).ok());
        }
        self.inner.copy_streams.push(stream);
        begun.and(ended)
    }

    fn record_end(&self, stream: CUstream) -> Result<Event> {
        let event = Event::new(self)?;
        // SAFETY: both are live, and of this driver.
        let result = unsafe { self.api().cuEventRecord(event.raw(), stream) };
        self.driver().check("cuEventRecord", result)?;
        Ok(event)
    }

    fn create_copy_stream(&self) -> Result<CUstream> {
        let mut stream = std::ptr::null_mut();
        self.with_primary(|| {
            let flags = CUstream_flags::CU_STREAM_NON_BLOCKING.0;
            // SAFETY: the output is valid, and the stream's context is current.
            let result = unsafe { self.api().cuStreamCreateWithPriority(&mut stream, flags, 0) };
            self.driver().check("cuStreamCreateWithPriority", result)
        })?;
        Ok(stream)
    }
}

impl CopyStreams {
    fn pop(&self) -> Option<CUstream> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().map(|Idle(stream)| stream)
    }

    fn push(&self, stream: CUstream) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(Idle(stream));
    }

    /// Destroys the streams, at the device's end.
    pub(super) fn destroy(&self, driver: &Driver) {
        while let Some(stream) = self.pop() {
            // SAFETY: the stream is live and idle, and this is its end.
            let result = unsafe { driver.api().cuStreamDestroy_v2(stream) };
            driver.check_in_drop("cuStreamDestroy", result);
        }
    }
}

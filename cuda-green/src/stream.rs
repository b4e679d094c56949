//! Streams: queues of work in a context.

mod launch;
mod limits;
mod options;

use std::{
    ffi::c_int,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use cuda_green_sys::{CUdevResourceType, CUstream, CUstream_flags, CUstreamCaptureStatus};

pub use options::{StreamOptions, StreamPriority};

use crate::{
    device::CudaDevice,
    driver::{Driver, ResourceOwner, log_failure, query_resource},
    error::{Error, Result, not_ready_is_false},
    event::Event,
    partition::GreenContext,
    resource::SmResource,
};

/// A queue of work that runs in order, on the SMs of its context only.
///
/// It keeps its context alive. Dropping it does not wait: work in it is finished first.
pub struct Stream {
    context: GreenContext,
    raw: CUstream,
    /// Never used twice in a process, as the handle may be.
    serial: u64,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver's stream calls are thread-safe.
unsafe impl Sync for Stream {}

impl Stream {
    pub(crate) fn create(context: &GreenContext, options: &StreamOptions) -> Result<Self> {
        let priority = options.check(context)?;
        let device = context.device();
        let driver = device.driver();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING.0;
        let mut raw = std::ptr::null_mut();
        if context.is_partitioned() && device.capabilities().direct_streams {
            // SAFETY: the output is valid, and the context is live.
            unsafe { driver.cuGreenCtxStreamCreate(&mut raw, context.raw(), flags, priority) }?;
        } else {
            let mut create = || {
                // SAFETY: the output is valid, and the stream's context is current.
                unsafe { driver.cuStreamCreateWithPriority(&mut raw, flags, priority) }
            };
            if context.is_partitioned() {
                // On 12.4 a stream is of the green context that is current when it is made. The guard
                // keeps to one thread at a time, but a sibling's stream would do as well: same SMs.
                let guard = context.activate()?;
                let created = create();
                drop(guard);
                created?;
            } else {
                device.with_primary(create)?;
            }
        }
        context.inner.streams.add(raw);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            context: context.clone(),
            raw,
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Its context.
    pub fn context(&self) -> &GreenContext {
        &self.context
    }

    /// Its device.
    pub fn device(&self) -> &CudaDevice {
        self.context.device()
    }

    /// The SMs that its work runs on, as the driver describes them. Before CUDA 13.1, which asks the stream
    /// itself (proven against the real header and the simulated driver), these are its context's.
    ///
    /// # Errors
    /// As [`GreenContext::sm_resource`].
    #[doc(alias = "cuStreamGetDevResource")]
    pub fn sm_resource(&self) -> Result<SmResource> {
        if !self.device().capabilities().stream_resources {
            return self.context.sm_resource();
        }
        let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        let raw = query_resource(self.driver(), ResourceOwner::Stream(self.raw), kind)?;
        Ok(self.context.describe_sms(raw))
    }

    /// Its priority as the driver has it; lower numbers come first.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuStreamGetPriority")]
    pub fn priority(&self) -> Result<c_int> {
        let mut priority = 0;
        // SAFETY: the stream is live, and the pointer valid for the one integer that is written.
        unsafe { self.driver().cuStreamGetPriority(self.raw, &mut priority) }?;
        Ok(priority)
    }

    /// Records the work so far in an event.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::ForeignDevice`] and [`Error::ForeignDriver`] for an event of elsewhere: it is recorded
    /// on its own device only. Others may wait for it.
    #[doc(alias = "cuEventRecord")]
    pub fn record(&self, event: &Event) -> Result<()> {
        self.device().check_own("the event", event.device())?;
        let event = event.raw_for(self.driver())?;
        // SAFETY: both are live, as their owners are borrowed, and of this driver.
        unsafe { self.driver().cuEventRecord(event, self.raw) }
    }

    /// Makes the work to come wait for an event, on the GPU; the host does not wait.
    ///
    /// An event that was recorded in a capture takes the stream into that capture. Its graph does not keep this
    /// stream's context then, as [`Capture::fork`](crate::Capture::fork) does.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::ForeignDriver`] for an event of another driver.
    #[doc(alias = "cuStreamWaitEvent")]
    pub fn wait(&self, event: &Event) -> Result<()> {
        let event = event.raw_for(self.driver())?;
        // SAFETY: both are live, as their owners are borrowed, and of this driver; 0 is the only flag.
        unsafe { self.driver().cuStreamWaitEvent(self.raw, event, 0) }
    }

    /// Waits for all work in it.
    ///
    /// # Errors
    /// [`Error::Driver`], also for a fault of the work itself.
    #[doc(alias = "cuStreamSynchronize")]
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is live.
        unsafe { self.driver().cuStreamSynchronize(self.raw) }
    }

    /// Whether all work in it is done.
    ///
    /// # Errors
    /// [`Error::Driver`], also for a fault of the work itself.
    #[doc(alias = "cuStreamQuery")]
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the stream is live.
        not_ready_is_false(unsafe { self.driver().cuStreamQuery(self.raw) })
    }

    /// The raw stream, for [other libraries](crate::guide::foreign_libraries): it belongs to this object, must not be
    /// destroyed, and must not be used after this object is dropped.
    pub fn raw(&self) -> CUstream {
        self.raw
    }

    /// Its number, which no other stream of the process ever has.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Waits for all work in it, on the crate's own account: beside captures of other streams too.
    pub(crate) fn wait_beside_captures(&self) -> Result<()> {
        let _allowed = self.driver().beside_captures();
        self.synchronize()
    }

    /// Returns whether it is part of a capture. The driver knows, whoever took the stream into it.
    pub(crate) fn is_captured(&self) -> Result<bool> {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream is live, and the output valid.
        unsafe { self.driver().cuStreamIsCapturing(self.raw, &mut status) }?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Refuses where it is part of a capture: there, nothing is done whose end could be waited for.
    pub(crate) fn outside_captures(&self) -> Result<()> {
        if self.is_captured()? {
            return Err(Error::InvalidArgument {
                name: "stream",
                value: "in a capture".to_owned(),
                reason: "buffers follow the work of streams by events, which stand for nothing in a capture; \
                         launch kernels on their addresses, and copy before or after",
            });
        }
        Ok(())
    }

    fn driver(&self) -> &Driver {
        self.context.device().driver()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.context.inner.streams.remove(self.raw);
        // SAFETY: the stream is live, and this is its end; the driver finishes its work first.
        log_failure(unsafe { self.driver().cuStreamDestroy_v2(self.raw) });
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("raw", &self.raw)
            .field("context", &self.context)
            .finish()
    }
}

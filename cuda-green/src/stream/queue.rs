//! A stream: creation, order by events, waiting, and its end.

use std::{
    ffi::c_int,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use cuda_green_sys::{CUdevResourceType, CUstream, CUstream_flags, CUstreamCaptureStatus};

use super::options::StreamOptions;
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
/// It keeps its context alive. Dropping it does not wait; the driver finishes its work first.
pub struct Stream {
    context: GreenContext,
    raw: CUstream,
    /// Unique in the process; handles can be reused.
    serial: u64,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver's stream calls are thread-safe.
unsafe impl Sync for Stream {}

impl Stream {
    /// Creates a stream in a context.
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
                // On 12.4 a stream belongs to the green context that is current when it is made. The guard may make
                // a sibling current; a stream of a sibling serves as well, because it has the same SMs.
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

    /// Returns the stream's context.
    pub fn context(&self) -> &GreenContext {
        &self.context
    }

    /// Returns the stream's device.
    pub fn device(&self) -> &CudaDevice {
        self.context.device()
    }

    /// Returns the SMs that the stream's work runs on, as the driver describes them. From CUDA 13.1 on the stream
    /// itself is queried (tested against the real header and the simulated driver), before that its context.
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

    /// Returns the stream's priority as the driver's number; lower numbers have precedence.
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

    /// Records an event after the work so far.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::ForeignDevice`] and [`Error::ForeignDriver`] for an event of another device or
    /// driver. An event can be recorded on its device only; streams of other devices may wait for it.
    #[doc(alias = "cuEventRecord")]
    pub fn record(&self, event: &Event) -> Result<()> {
        self.device().check_own("the event", event.device())?;
        let event = event.raw_for(self.driver())?;
        // SAFETY: both are live, as their owners are borrowed, and of this driver.
        unsafe { self.driver().cuEventRecord(event, self.raw) }
    }

    /// Makes the stream's later work wait for an event on the GPU; the host does not wait.
    ///
    /// An event that was recorded in a capture takes the stream into that capture. The graph then does not keep this
    /// stream's context alive; with [`Capture::fork`](crate::Capture::fork) it does.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::ForeignDriver`] for an event of another driver.
    #[doc(alias = "cuStreamWaitEvent")]
    pub fn wait(&self, event: &Event) -> Result<()> {
        let event = event.raw_for(self.driver())?;
        // SAFETY: both are live, as their owners are borrowed, and of this driver; 0 is the only flag value.
        unsafe { self.driver().cuStreamWaitEvent(self.raw, event, 0) }
    }

    /// Waits for all work in the stream.
    ///
    /// # Errors
    /// [`Error::Driver`], also for a fault of the work itself.
    #[doc(alias = "cuStreamSynchronize")]
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is live.
        unsafe { self.driver().cuStreamSynchronize(self.raw) }
    }

    /// Returns whether all work in the stream is done.
    ///
    /// # Errors
    /// [`Error::Driver`], also for a fault of the work itself.
    #[doc(alias = "cuStreamQuery")]
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the stream is live.
        not_ready_is_false(unsafe { self.driver().cuStreamQuery(self.raw) })
    }

    /// Returns the raw stream, for [other libraries](crate::guide::foreign_libraries). It belongs to this object,
    /// must not be destroyed, and must not be used after this object is dropped.
    pub fn raw(&self) -> CUstream {
        self.raw
    }

    /// Returns the stream's number, which is unique among all streams that the process ever makes.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Waits for all work in the stream, also during captures of other streams. For waits of the crate itself.
    pub(crate) fn synchronize_beside_captures(&self) -> Result<()> {
        let _allowed = self.driver().beside_captures();
        self.synchronize()
    }

    /// Returns whether the stream is part of a capture. The driver reports this also if foreign code took the
    /// stream into it.
    pub(crate) fn is_captured(&self) -> Result<bool> {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream is live, and the output valid.
        unsafe { self.driver().cuStreamIsCapturing(self.raw, &mut status) }?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Ensures that the stream is in no capture. Captured work is not done, so it has no end to wait for.
    pub(crate) fn outside_captures(&self) -> Result<()> {
        if self.is_captured()? {
            return Err(Error::InvalidArgument {
                name: "stream",
                value: "in a capture".to_owned(),
                reason: "buffers follow the work of streams through events, which mark no work in a capture; \
                         launch kernels on their addresses, and copy before or after",
            });
        }
        Ok(())
    }

    pub(super) fn driver(&self) -> &Driver {
        self.context.device().driver()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.context.inner.streams.remove(self.raw);
        // SAFETY: the stream is live and destroyed here; the driver finishes its work first.
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

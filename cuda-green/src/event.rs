//! Events: marks in the work of streams, which other streams and the host can wait for.

use std::{ffi::c_uint, fmt, sync::Arc, time::Duration};

use cuda_green_sys::{CUevent, CUevent_flags, CUresult, CUstream};

use crate::{
    device::CudaDevice,
    driver::{Driver, log_failure},
    error::{Error, Result, not_ready_is_false},
};

/// A mark in the work of a stream or a green context.
///
/// It belongs to the device, not to a context, so it may be recorded in one partition and waited for in
/// another, and may outlive both.
pub struct Event {
    /// Shared with the completions that wait for the event.
    inner: Arc<EventInner>,
}

struct EventInner {
    device: CudaDevice,
    raw: CUevent,
    timed: bool,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for EventInner {}
// SAFETY: as above; the driver's event calls are thread-safe.
unsafe impl Sync for EventInner {}

impl Event {
    /// Creates an event for ordering only, which is the cheap kind.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuEventCreate")]
    pub fn new(device: &CudaDevice) -> Result<Self> {
        Self::with_flags(device, CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// Creates an event that also records the time, for [`Event::elapsed_since`].
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn timed(device: &CudaDevice) -> Result<Self> {
        Self::with_flags(device, CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with_flags(device: &CudaDevice, flags: CUevent_flags) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // Creating an event needs a current context (measured: error 201 without one); using an event does not.
        device.with_primary(|| {
            // SAFETY: the pointer is valid for the one handle that is written.
            unsafe { device.driver().cuEventCreate(&mut raw, flags.0 as c_uint) }
        })?;
        let inner = EventInner {
            device: device.clone(),
            raw,
            timed: flags == CUevent_flags::CU_EVENT_DEFAULT,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Creates an event and records it at the end of the work in a stream of the device.
    pub(crate) fn at_end_of(device: &CudaDevice, stream: CUstream) -> Result<Self> {
        let event = Self::new(device)?;
        // SAFETY: both are live, and of this device.
        unsafe { device.driver().cuEventRecord(event.raw(), stream) }?;
        Ok(event)
    }

    /// Returns another handle of the same event.
    pub(crate) fn share(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }

    /// Returns whether all work before the event is done; true if the event was never recorded.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuEventQuery")]
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the event is live.
        not_ready_is_false(unsafe { self.inner.device.driver().cuEventQuery(self.inner.raw) })
    }

    /// Waits until all work before the event is done.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuEventSynchronize")]
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the event is live.
        unsafe {
            self.inner
                .device
                .driver()
                .cuEventSynchronize(self.inner.raw)
        }
    }

    /// Waits for an event that this crate recorded itself, also during captures.
    pub(crate) fn synchronize_beside_captures(&self) -> Result<()> {
        let _allowed = self.inner.device.driver().beside_captures();
        self.synchronize()
    }

    /// Returns the time between two timed events that are both done, with a resolution of about 0.5 µs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an event that is not [timed](Self::timed) or was never recorded;
    /// [`Error::ForeignDevice`] and [`Error::ForeignDriver`] for events of different devices; [`Error::Driver`] with
    /// `CUDA_ERROR_NOT_READY` if one is not done yet.
    #[doc(alias = "cuEventElapsedTime")]
    pub fn elapsed_since(&self, start: &Event) -> Result<Duration> {
        let invalid = |reason| Error::InvalidArgument {
            name: "event",
            value: "start or end".to_owned(),
            reason,
        };
        if !self.inner.timed || !start.inner.timed {
            return Err(invalid(
                "it was made for ordering only and records no time; make it with `Event::timed`",
            ));
        }
        self.inner
            .device
            .check_own("the first event", start.device())?;
        let start = start.raw_for(self.inner.device.driver())?;
        let mut milliseconds = 0.0f32;
        // SAFETY: both events are live, and the pointer is valid for the one number that is written.
        let elapsed = unsafe {
            let driver = self.inner.device.driver();
            driver.cuEventElapsedTime(&mut milliseconds, start, self.inner.raw)
        };
        match elapsed {
            // Both events are live, timed and of this device, so no other cause is left.
            Err(error) if error.is_refusal(CUresult::CUDA_ERROR_INVALID_HANDLE) => {
                return Err(invalid("it was never recorded"));
            }
            answer => answer?,
        }
        Ok(Duration::try_from_secs_f32(milliseconds / 1e3).unwrap_or_default())
    }

    /// Returns the event's device. An event belongs to no context.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// Returns the raw event, which this object destroys.
    pub fn raw(&self) -> CUevent {
        self.inner.raw
    }

    /// Returns the raw event for a call of this driver, or [`Error::ForeignDriver`] if it is another driver's.
    #[inline]
    pub(crate) fn raw_for(&self, driver: &Driver) -> Result<CUevent> {
        driver.check_own(self.inner.device.driver())?;
        Ok(self.inner.raw)
    }
}

impl Drop for EventInner {
    fn drop(&mut self) {
        // SAFETY: the event is live and destroyed here; the driver lets pending work finish.
        log_failure(unsafe { self.device.driver().cuEventDestroy_v2(self.raw) });
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("raw", &self.inner.raw)
            .finish_non_exhaustive()
    }
}

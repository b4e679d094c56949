//! `Sim`: a simulated driver as its user holds it.

use std::{
    ffi::{CStr, c_void},
    fmt,
    sync::Arc,
    time::Duration,
};

use cuda_green_sys::{Api, CudaVersion, ENTRY_POINTS};

use crate::{BlockCost, Error, Launch, LiveObjects, Profile, driver::Driver, entry_points, slots};

/// A simulated driver. Clones are the same driver; it ends with the last one.
///
/// Its functions may be called from any thread. After it has ended they answer
/// `CUDA_ERROR_DEINITIALIZED`, so a table that is kept too long is of no use, but does no harm.
#[derive(Clone)]
pub struct Sim {
    inner: Arc<Inner>,
}

struct Inner {
    driver: Arc<Driver>,
    slot: usize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        slots::leave(self.slot);
    }
}

impl Sim {
    /// Makes the driver of a profile: `h200@13.0`, or `2xh200@13.0` for two devices.
    ///
    /// ```
    /// let sim = cuda_green_sim::Sim::new("rtx5090@12.8")?;
    /// assert_eq!(sim.profile().device.sm_count, 170);
    /// # Ok::<(), cuda_green_sim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidSpec`], [`Error::UnknownDevice`] and [`Error::UnknownVersion`] for a profile
    /// that does not exist; [`Error::TooManyDrivers`] when [`MAX_DRIVERS`](crate::MAX_DRIVERS) live
    /// already.
    pub fn new(spec: &str) -> Result<Self, Error> {
        let driver = Arc::new(Driver::new(Profile::parse(spec)?));
        let slot = slots::take(&driver)?;
        Ok(Self {
            inner: Arc::new(Inner { driver, slot }),
        })
    }

    /// The table of this driver's functions, with those absent that its CUDA version lacks.
    ///
    /// The table does not keep the driver alive: keep the `Sim` beside it.
    ///
    /// # Errors
    /// [`Error::Api`] if the table cannot be filled, which no built-in profile leads to.
    pub fn api(&self) -> Result<Api, Error> {
        // SAFETY: each address is this driver's function of that name in the ABI of the table; the
        // functions are static code, so they can be called for ever.
        let api = unsafe { Api::from_resolver(|name, abi| self.resolve(name, abi)) }?;
        Ok(api)
    }

    /// A function's address by the name that `cuGetProcAddress` knows and the version of its ABI; null
    /// where this CUDA version has none such.
    ///
    /// The function is the newest ABI that is not newer than `abi`. A version above the driver's own
    /// finds nothing at all, as measured (H200, driver 580).
    pub fn resolve(&self, name: &CStr, abi: CudaVersion) -> *const c_void {
        if abi > self.profile().cuda_version {
            return std::ptr::null();
        }
        ENTRY_POINTS
            .iter()
            .filter(|entry| entry.proc_name == name && entry.since <= abi)
            .max_by_key(|entry| entry.since)
            .and_then(|entry| entry_points::address(entry.symbol, self.inner.slot))
            .unwrap_or(std::ptr::null())
    }

    /// What lives in the driver.
    pub fn live_objects(&self) -> LiveObjects {
        self.inner.driver.live_objects()
    }

    /// The device and the CUDA version that are simulated.
    pub fn profile(&self) -> &Profile {
        &self.inner.driver.profile
    }

    /// Runs `kernel` whenever a kernel of this name is launched, in place of the one registered before.
    ///
    /// PTX is not executed: a kernel for which nothing is registered only takes its place in the
    /// stream, and its time if it has a [cost](Self::register_kernel_cost). `cuda_green_sm_ids` is built
    /// in.
    ///
    /// The function runs on the thread that launches. If it panics, the launch fails as a kernel that
    /// crashed: every later call answers `CUDA_ERROR_LAUNCH_FAILED`. A closure that holds a clone of
    /// its own `Sim` keeps the driver alive for good.
    pub fn register_kernel(
        &self,
        name: &str,
        kernel: impl Fn(&Launch<'_>) + Send + Sync + 'static,
    ) {
        self.inner.driver.register_kernel(name, Arc::new(kernel));
    }
}

impl Sim {
    /// What each block of the kernels of this name takes, in place of what was registered before. `cost`
    /// is asked at each launch.
    ///
    /// A kernel without a cost takes no time at all. `cuda_green_sm_ids` and `cuda_green_burn` have
    /// theirs built in.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cuda_green_sim::{BlockCost, Sim};
    ///
    /// let sim = Sim::new("h200@13.0")?;
    /// // Each block keeps an SM busy for as many microseconds as the first argument says.
    /// sim.register_kernel_cost("work", |launch| {
    ///     BlockCost::busy(Duration::from_micros(launch.arg_u64(0).unwrap_or_default()))
    /// });
    /// # Ok::<(), cuda_green_sim::Error>(())
    /// ```
    pub fn register_kernel_cost(
        &self,
        name: &str,
        cost: impl Fn(&Launch<'_>) -> BlockCost + Send + Sync + 'static,
    ) {
        self.inner.driver.register_cost(name, Arc::new(cost));
    }

    /// The virtual time since the driver was made.
    ///
    /// It moves where the host launches a kernel that has a cost (2.6 us), waits for one (until it ends,
    /// and 5 us more), or asks in vain whether one is done (1 us), and nowhere else. All threads share it.
    pub fn now(&self) -> Duration {
        self.inner.driver.now()
    }

    /// Lets virtual time pass: what a client does on the host takes none by itself.
    pub fn advance(&self, time: Duration) {
        self.inner.driver.advance(time);
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("profile", &self.profile().to_string())
            .field("live_objects", &self.live_objects())
            .finish_non_exhaustive()
    }
}

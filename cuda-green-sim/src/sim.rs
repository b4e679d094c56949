//! `Sim`, the handle that users hold of a simulated driver.

use std::{
    ffi::{CStr, c_void},
    fmt,
    sync::Arc,
    time::Duration,
};

use cuda_green_sys::{Api, CUresult, CudaVersion, ENTRY_POINTS};

use crate::{
    c_slots,
    driver::Driver,
    entry_points,
    error::Error,
    fork,
    injection::Injection,
    kernel::{BlockCost, Kernel, Launch},
    leaks::{LiveObjects, MadeAt},
    profile::Profile,
};

/// A simulated driver. Clones are handles of the same driver, which ends with the last one.
///
/// Its functions may be called from any thread. After the driver has ended they return `CUDA_ERROR_DEINITIALIZED`, so
/// a table that outlives it is useless but harmless.
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
        c_slots::leave(self.slot);
        // In a forked child, a thread that does not exist there may hold the lock.
        if !fork::was_forked() {
            self.driver.end();
        }
    }
}

impl Sim {
    /// Makes the driver of a profile: `h200@13.0`, `2xh200@13.0` for two devices, or the path of a
    /// `.toml` file.
    ///
    /// ```
    /// let sim = cuda_green_sim::Sim::new("rtx5090@12.8")?;
    /// assert_eq!(sim.profile().device.sm_count, 170);
    /// # Ok::<(), cuda_green_sim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidSpec`], [`Error::UnknownDevice`] and [`Error::UnknownVersion`] for a profile that does not
    /// exist; [`Error::InvalidProfile`] for a file that is not a profile; [`Error::TooManyDrivers`] if the process
    /// has [`MAX_DRIVERS`](crate::MAX_DRIVERS) already; [`Error::InvalidInjection`] if the environment variable
    /// [`FAULTS_VARIABLE`](crate::FAULTS_VARIABLE) contains something that is not a fault.
    pub fn new(spec: &str) -> Result<Self, Error> {
        Self::of(Profile::parse(spec)?, None)
    }

    /// Makes the driver of a profile as a process sees it whose environment has this list of visible devices
    /// (`CUDA_VISIBLE_DEVICES`). Its `cuInit` fails if the list names no device, or one twice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[doc(hidden)] // for the library `libcuda.so.1`, and the conformance suite
    pub fn with_visible(spec: &str, list: Option<&str>) -> Result<Self, Error> {
        Self::of(Profile::parse(spec)?, list)
    }

    fn of(profile: Profile, visible: Option<&str>) -> Result<Self, Error> {
        let injections = Injection::from_env()?;
        let driver = Driver::new(profile, visible);
        for injection in injections {
            driver.inject(injection);
        }
        let slot = c_slots::take(&driver)?;
        Ok(Self {
            inner: Arc::new(Inner { driver, slot }),
        })
    }

    /// Returns the table of this driver's functions. Functions that its CUDA version lacks are absent.
    ///
    /// The table does not keep the driver alive: keep the `Sim` beside it.
    ///
    /// # Errors
    /// [`Error::Api`] if the table cannot be filled, which happens with no built-in profile.
    pub fn api(&self) -> Result<Api, Error> {
        // SAFETY: each address is this driver's function of that name in the ABI of the table; the
        // functions are static code, so they can always be called.
        let api = unsafe { Api::from_resolver(|name, abi| self.resolve(name, abi)) }?;
        Ok(api)
    }

    /// Returns a function's address by the name that `cuGetProcAddress` knows and the version of its ABI; null if
    /// this CUDA version has no such function.
    ///
    /// The function has the newest ABI that is not newer than `abi`. A version above the driver's own finds nothing,
    /// as measured (H200, driver 580).
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

    /// Returns the live objects of the driver.
    pub fn live_objects(&self) -> LiveObjects {
        self.inner.driver.live_objects()
    }

    /// Fails if objects are left.
    ///
    /// # Errors
    /// [`Error::Leaks`] if any object is alive, with the calls that made them.
    pub fn check_leaks(&self) -> Result<(), Error> {
        let live = Box::new(self.live_objects());
        if live.is_empty() {
            Ok(())
        } else {
            Err(Error::Leaks { live })
        }
    }

    /// Panics if objects are left, to fail a test.
    ///
    /// # Panics
    /// If any object is alive; the message lists the objects and the calls that made them.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        let live = self.live_objects();
        assert!(
            live.is_empty(),
            "left behind in the simulated driver: {live}"
        );
    }

    /// Returns a guard that fails a test which leaves objects behind. Make it first, so that it is dropped last.
    ///
    /// ```
    /// use cuda_green_sim::Sim;
    ///
    /// let sim = Sim::new("h200@13.0")?;
    /// let _guard = sim.leak_guard();
    /// // ... the code under test: what it has not destroyed here fails the test ...
    /// # Ok::<(), cuda_green_sim::Error>(())
    /// ```
    pub fn leak_guard(&self) -> LeakGuard {
        LeakGuard { sim: self.clone() }
    }

    /// Returns the number of calls that the driver has had, including failed ones.
    pub fn calls(&self) -> u64 {
        self.inner.driver.calls()
    }

    /// Records every call from now on, until [`take_trace`](Self::take_trace).
    ///
    /// The calls of a good run are those that can fail in the next one: with [`Injection::fail`] on `*`, a test makes
    /// each of them fail in turn.
    pub fn start_trace(&self) {
        self.inner.driver.start_trace();
    }

    /// Ends the trace and returns the calls of all threads since [`start_trace`](Self::start_trace).
    pub fn take_trace(&self) -> Vec<MadeAt> {
        self.inner.driver.take_trace()
    }

    /// Injects a fault: see [`Injection`]. Several can be in force.
    pub fn inject(&self, injection: Injection) {
        self.inner.driver.inject(injection);
    }

    /// Makes an entry point fail with a code at its nth call from now, where 1 is the next.
    ///
    /// ```
    /// use cuda_green_sim::Sim;
    /// use cuda_green_sys::CUresult;
    ///
    /// let sim = Sim::new("h200@13.0")?;
    /// sim.fail("cuInit", 1, CUresult::CUDA_ERROR_SYSTEM_NOT_READY)?;
    /// let driver = sim.api()?;
    /// // SAFETY: the function takes no pointer.
    /// let code = unsafe { driver.cuInit(0) }?;
    /// assert_eq!(code, CUresult::CUDA_ERROR_SYSTEM_NOT_READY);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidInjection`] where no entry point has that name.
    pub fn fail(&self, entry_point: &str, nth: u64, code: CUresult) -> Result<(), Error> {
        self.inject(Injection::fail(entry_point, code)?.at(nth));
        Ok(())
    }

    /// Returns the faults in force that never happened, because their call did not come. A test should check at its
    /// end that there are none; otherwise it may pass without its fault. Faults of the environment are included.
    /// Limits of memory and MPS are not: they are in force from the injection on.
    ///
    /// ```
    /// use cuda_green_sim::Sim;
    /// use cuda_green_sys::CUresult;
    ///
    /// let sim = Sim::new("h200@13.0")?;
    /// sim.fail("cuInit", 2, CUresult::CUDA_ERROR_UNKNOWN)?;
    /// // SAFETY: the function takes no pointer.
    /// unsafe { sim.api()?.cuInit(0) }?;
    /// assert_eq!(sim.unfired_injections().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unfired_injections(&self) -> Vec<Injection> {
        self.inner.driver.unfired_injections()
    }

    /// Panics if an injected fault never happened, to fail a test: see
    /// [`unfired_injections`](Self::unfired_injections).
    ///
    /// # Panics
    /// If there is such a fault; the message lists each in its text form.
    #[track_caller]
    pub fn assert_injections_fired(&self) {
        let unfired = self.unfired_injections();
        let texts: Vec<String> = unfired.iter().map(ToString::to_string).collect();
        assert!(
            texts.is_empty(),
            "injected faults that never happened: {}",
            texts.join("; ")
        );
    }

    /// Ends all injected faults. A lost device stays lost, and a persistent fault persists.
    pub fn clear_injections(&self) {
        self.inner.driver.clear_injections();
    }

    /// Returns the simulated device and CUDA version.
    pub fn profile(&self) -> &Profile {
        &self.inner.driver.profile
    }

    /// Runs `kernel` whenever a kernel of this name is launched, and replaces the one registered before.
    ///
    /// PTX is not executed: a kernel for which nothing is registered only takes its place in the stream, and its time
    /// if it has a [cost](Self::register_kernel_cost). `cuda_green_sm_ids` is built in.
    ///
    /// The function runs on the thread that launches. If it panics, the launch fails as a kernel that crashed: every
    /// later call returns `CUDA_ERROR_LAUNCH_FAILED`. A closure that holds a clone of its own `Sim` keeps the driver
    /// alive for good.
    pub fn register_kernel(
        &self,
        name: &str,
        kernel: impl Fn(&Launch<'_>) + Send + Sync + 'static,
    ) {
        self.register(name, false, Arc::new(kernel));
    }

    /// Runs `kernel` on a thread of the driver whenever a kernel of this name is launched, and replaces the one
    /// registered before. The launch returns at once, so the kernel may wait for its caller, or for another kernel of
    /// this kind in another stream.
    ///
    /// ```
    /// # use cuda_green_sim::Sim;
    /// let sim = Sim::new("h200@13.0")?;
    /// // Waits for a word of pinned memory, and answers in the next.
    /// sim.register_concurrent_kernel("answer", |launch| {
    ///     let word = launch.arg_u64(0).unwrap_or_default();
    ///     while launch.load_u32(word) == Ok(0) {
    ///         std::thread::yield_now();
    ///     }
    ///     let _ = launch.store_u32(word + 4, 1);
    /// });
    /// # Ok::<(), cuda_green_sim::Error>(())
    /// ```
    ///
    /// Until the function has returned, the work is not done for any query or wait, and nothing that follows it begins:
    /// later launches, copies, host functions and frees in stream order are done on threads of the driver then. Calls
    /// that wait for it let other threads call the driver.
    ///
    /// When the driver or the primary context ends, the device is lost or there is a persistent fault, the kernel is
    /// stopped: its accesses to memory fail from then on ([`FaultKind::Stopped`](crate::FaultKind::Stopped)), so that
    /// it ends if it waits for memory as above. See also [`Launch::is_stopped`].
    pub fn register_concurrent_kernel(
        &self,
        name: &str,
        kernel: impl Fn(&Launch<'_>) + Send + Sync + 'static,
    ) {
        self.register(name, true, Arc::new(kernel));
    }

    /// Returns whether a function runs when a kernel of this name is launched: one was registered, or is built in.
    pub fn has_kernel(&self, name: &str) -> bool {
        self.inner.driver.has_kernel(name)
    }

    fn register(&self, name: &str, concurrent: bool, run: Arc<dyn Fn(&Launch<'_>) + Send + Sync>) {
        let kernel = Kernel { run, concurrent };
        self.inner.driver.register_kernel(name, kernel);
    }
}

impl Sim {
    /// Sets the cost of each block of the kernels of this name, and replaces what was registered before. `cost` is
    /// called at each launch.
    ///
    /// A kernel without a cost takes no time. The costs of `cuda_green_sm_ids` and `cuda_green_burn` are built in.
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

    /// Returns the virtual time since the driver was made.
    ///
    /// It advances where the host launches a kernel that has a cost (2.6 us), waits for one (until it ends, and 5 us
    /// more), or queries one that is not done (1 us), and nowhere else. All threads share it.
    pub fn now(&self) -> Duration {
        self.inner.driver.now()
    }

    /// Advances virtual time, because a client's work on the host takes none.
    pub fn advance(&self, time: Duration) {
        self.inner.driver.advance(time);
    }
}

/// A guard that fails a test which leaves objects behind: see [`Sim::leak_guard`].
#[derive(Debug)]
#[must_use = "it looks for leaks when it is dropped, which without a name is at once"]
pub struct LeakGuard {
    sim: Sim,
}

impl Drop for LeakGuard {
    /// Panics if any object is alive, unless the thread is panicking already.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.sim.assert_no_leaks();
        }
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

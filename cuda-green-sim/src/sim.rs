//! `Sim`: a simulated driver as its user holds it.

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
    injection::Injection,
    kernel::{BlockCost, Launch},
    leaks::{LiveObjects, MadeAt},
    profile::Profile,
};

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
        c_slots::leave(self.slot);
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
    /// [`Error::InvalidSpec`], [`Error::UnknownDevice`] and [`Error::UnknownVersion`] for a profile
    /// that does not exist; [`Error::InvalidProfile`] for a file that is none;
    /// [`Error::TooManyDrivers`] when [`MAX_DRIVERS`](crate::MAX_DRIVERS) live
    /// already; [`Error::InvalidInjection`] for a text in the environment variable
    /// [`FAULTS_VARIABLE`](crate::FAULTS_VARIABLE) that is no fault.
    pub fn new(spec: &str) -> Result<Self, Error> {
        Self::of(Profile::parse(spec)?, None)
    }

    /// Makes the driver of a profile as a process sees it whose environment has this list of visible devices
    /// (`CUDA_VISIBLE_DEVICES`). Its `cuInit` fails where the list names none, or one twice.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[doc(hidden)] // for the library `libcuda.so.1`, and the conformance suite
    pub fn with_visible(spec: &str, list: Option<&str>) -> Result<Self, Error> {
        Self::of(Profile::parse(spec)?, list)
    }

    fn of(profile: Profile, visible: Option<&str>) -> Result<Self, Error> {
        let injections = Injection::from_env()?;
        let driver = Arc::new(Driver::new(profile, visible));
        for injection in injections {
            driver.inject(injection);
        }
        let slot = c_slots::take(&driver)?;
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

    /// What lives, as an error.
    ///
    /// # Errors
    /// [`Error::Leaks`] where something lives, with the calls that made it.
    pub fn check_leaks(&self) -> Result<(), Error> {
        let live = Box::new(self.live_objects());
        if live.is_empty() {
            Ok(())
        } else {
            Err(Error::Leaks { live })
        }
    }

    /// Fails a test in which something was left behind.
    ///
    /// # Panics
    /// Where something lives; the message says what, and which calls made it.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        let live = self.live_objects();
        assert!(
            live.is_empty(),
            "left behind in the simulated driver: {live}"
        );
    }

    /// A value that fails a test which leaves something behind. Make it first, so that it is dropped
    /// last.
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

    /// How many calls the driver has had, failed ones too.
    pub fn calls(&self) -> u64 {
        self.inner.driver.calls()
    }

    /// Notes every call from now on, until [`take_trace`](Self::take_trace).
    ///
    /// What a good run calls is what can fail in the next one: with [`Injection::fail`] on `*`, a test
    /// makes each call of it fail in turn.
    pub fn start_trace(&self) {
        self.inner.driver.start_trace();
    }

    /// The calls since [`start_trace`](Self::start_trace), those of all threads, and ends the trace.
    pub fn take_trace(&self) -> Vec<MadeAt> {
        self.inner.driver.take_trace()
    }

    /// Makes a fault happen: see [`Injection`]. Several can be in force.
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

    /// The faults in force that never happened, because their call did not come: what a test should find empty at its
    /// end, lest it pass without its fault. Those of the environment are among them. Limits of memory and MPS are not:
    /// they are in force from the injection on.
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

    /// Fails a test in which an injected fault never happened: see [`unfired_injections`](Self::unfired_injections).
    ///
    /// # Panics
    /// Where there is such a fault; the message names each in its text form.
    #[track_caller]
    pub fn assert_injections_fired(&self) {
        let unfired = self.unfired_injections();
        let texts: Vec<String> = unfired.iter().map(ToString::to_string).collect();
        assert!(
            texts.is_empty(),
            "faults that never happened: {}",
            texts.join("; ")
        );
    }

    /// Ends all injected faults. A device that is lost stays lost, and a fault that stays stays.
    pub fn clear_injections(&self) {
        self.inner.driver.clear_injections();
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

/// Fails a test that leaves something behind: see [`Sim::leak_guard`].
#[derive(Debug)]
#[must_use = "it looks for leaks when it is dropped, which without a name is at once"]
pub struct LeakGuard {
    sim: Sim,
}

impl Drop for LeakGuard {
    /// Panics where something lives, unless the thread panics already.
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

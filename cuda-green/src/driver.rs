//! A loaded driver: where it came from, what it speaks, and every call's way to a typed error.

mod calls;
mod capture_mode;
mod inbox;
mod resources;
mod waiter;

use std::{
    fmt, process,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use cuda_green_sys::{Api, CUresult, CUuuid, CudaVersion, DriverSpec, MissingEntryPoint};

pub(crate) use calls::{log_failure, name};
pub(crate) use inbox::{Inbox, caught, spawn};
pub(crate) use resources::{ResourceOwner, query_resource, sm_fields};
pub(crate) use waiter::{Pending, Waiter};

use crate::{
    error::{Error, Result},
    sync::native::Mutex,
};

/// The process that was the first to initialise CUDA through this library; 0 before. A forked child finds its
/// parent's.
static INITIALISED_BY: AtomicU32 = AtomicU32::new(0);

/// A loaded CUDA driver. Cheap to clone; all clones are the same driver.
///
/// So are all handles of one library, in whatever way and however often it was opened: what is made through one
/// works with what is made through another, and a device that is split through one is split for all.
///
/// CUDA does not work in a child that a process forks after it has initialised CUDA: there, every call is
/// [`Error::Forked`]. Start such a child by `exec`, as `std::process::Command` does, or initialise CUDA in the child
/// only.
///
/// ```
/// use cuda_green::Driver;
///
/// # fn main() -> cuda_green::Result<()> {
/// let driver = Driver::open(&"sim:h200@13.0".parse()?)?; // or Driver::load() for the real one
/// assert!(driver.is_simulated());
/// assert_eq!(driver.device(0)?.name(), "NVIDIA H200");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Driver {
    inner: Arc<Inner>,
}

struct Inner {
    api: Api,
    source: String,
    initialised: AtomicBool,
    /// Held by whoever initialises it.
    initialising: Mutex<()>,
    fault: OnceLock<(&'static str, CUresult)>,
    /// Whether the library is the simulator's, once that was asked.
    simulated_library: OnceLock<bool>,
    /// Waits for work whose end was asked for as a future.
    waiter: Waiter,
    #[cfg(feature = "test-utils")]
    simulator: Option<cuda_green_sim::Sim>,
}

impl Driver {
    /// The process's driver: the one that `CUDA_GREEN_DRIVER` names, else the system's. Loaded once.
    ///
    /// # Errors
    /// [`Error::Load`] where none can be loaded. A failure is not remembered: the next call tries again.
    pub fn load() -> Result<Self> {
        static LOADED: Mutex<Option<Driver>> = Mutex::new(None);
        let mut loaded = LOADED.lock();
        if let Some(driver) = &*loaded {
            return Ok(driver.clone());
        }
        let driver = Self::open(&DriverSpec::from_env()?)?;
        *loaded = Some(driver.clone());
        Ok(driver)
    }

    /// Loads the driver of a specification, whatever the environment says.
    ///
    /// A simulated one (`sim:h200@13.0`) needs the feature `test-utils`; each call makes a new one.
    ///
    /// # Errors
    /// [`Error::Load`], or for a simulated one the simulator's own error.
    pub fn open(spec: &DriverSpec) -> Result<Self> {
        #[cfg(feature = "test-utils")]
        if let DriverSpec::Simulated(profile) = spec {
            return Self::simulated(&cuda_green_sim::Sim::new(profile)?);
        }
        let api = Api::load_spec(spec)?;
        let source = match spec {
            DriverSpec::Path(path) => path.display().to_string(),
            _ => "system".to_owned(),
        };
        Ok(Self::new(
            api,
            source,
            #[cfg(feature = "test-utils")]
            None,
        ))
    }

    /// A driver in front of a simulator that the caller holds, to look into it or to steer it.
    ///
    /// # Errors
    /// The simulator's own.
    #[cfg(feature = "test-utils")]
    pub fn simulated(simulator: &cuda_green_sim::Sim) -> Result<Self> {
        let source = format!("sim:{}", simulator.profile());
        Ok(Self::new(simulator.api()?, source, Some(simulator.clone())))
    }

    fn new(
        api: Api,
        source: String,
        #[cfg(feature = "test-utils")] simulator: Option<cuda_green_sim::Sim>,
    ) -> Self {
        /// Those that live. Few, and looked at only when one is opened.
        static OPEN: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock();
        // A library is never unloaded, and a simulated driver is held, so that no other has its addresses.
        let mut live = open.iter().filter_map(Weak::upgrade);
        let identity = api.identity();
        if let Some(inner) = live.find(|inner| inner.api.identity() == identity)
            && !identity.is_null()
        {
            return Self { inner };
        }
        let inner = Arc::new(Inner {
            api,
            source,
            initialised: AtomicBool::new(false),
            initialising: Mutex::new(()),
            fault: OnceLock::new(),
            simulated_library: OnceLock::new(),
            waiter: Waiter::default(),
            #[cfg(feature = "test-utils")]
            simulator,
        });
        open.retain(|inner| inner.strong_count() > 0);
        open.push(Arc::downgrade(&inner));
        Self { inner }
    }

    /// The CUDA version that the driver speaks.
    pub fn version(&self) -> CudaVersion {
        self.inner.api.version()
    }

    /// Where the driver came from when it was first opened: `system`, a path, or `sim:` and a profile.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// What no other live driver of this process has.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.inner) as usize
    }

    /// Whether this is a simulated driver, behind which there is no GPU; one that was loaded as a library
    /// too. To learn that, a driver that was loaded is initialised if it was not yet.
    pub fn is_simulated(&self) -> bool {
        #[cfg(feature = "test-utils")]
        if self.inner.simulator.is_some() {
            return true;
        }
        self.init().is_ok()
            && *self
                .inner
                .simulated_library
                .get_or_init(|| self.uuid_is_simulated())
    }

    /// The UUIDs of simulated devices begin with these letters, which no real one's do.
    fn uuid_is_simulated(&self) -> bool {
        let mut uuid = CUuuid { bytes: [0; 16] };
        // SAFETY: the pointer is valid for the one struct that is written, and the driver is initialised.
        let answer = unsafe { self.api().cuDeviceGetUuid_v2(&mut uuid, 0) };
        let letters = uuid.bytes.iter().map(|byte| *byte as u8);
        matches!(answer, Ok(CUresult::CUDA_SUCCESS)) && letters.take(8).eq(*b"GREENSIM")
    }

    /// The simulator behind a simulated driver.
    #[cfg(feature = "test-utils")]
    pub fn simulator(&self) -> Option<&cuda_green_sim::Sim> {
        self.inner.simulator.as_ref()
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// [`Error::NoGpu`] where there is none; [`Error::Driver`].
    #[doc(alias = "cuDeviceGetCount")]
    pub fn device_count(&self) -> Result<u32> {
        self.init()?;
        let mut count = 0;
        // SAFETY: the pointer is valid for the one integer that is written.
        unsafe { self.cuDeviceGetCount(&mut count) }?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// The raw entry points, for what this crate does not cover.
    pub fn api(&self) -> &Api {
        &self.inner.api
    }

    pub(crate) fn waiter(&self) -> &Waiter {
        &self.inner.waiter
    }

    /// Initialises the driver once. A failure is not remembered, since a device may come later.
    fn init(&self) -> Result<()> {
        // Without the lock first, which another thread of a parent may hold when a child is forked.
        if self.inner.initialised.load(Ordering::Acquire) {
            return Ok(());
        }
        let _initialising = self.inner.initialising.lock();
        if self.inner.initialised.load(Ordering::Acquire) {
            return Ok(());
        }
        // SAFETY: the function takes no pointer, and 0 is the only flag there is.
        match unsafe { self.cuInit(0) } {
            Err(error) if error.is_refusal(CUresult::CUDA_ERROR_NO_DEVICE) => Err(Error::NoGpu {
                source_name: self.source().to_owned(),
                driver: self.version(),
            }),
            Err(error) => Err(error),
            Ok(()) => {
                self.inner.initialised.store(true, Ordering::Release);
                let (none, own) = (0, process::id());
                // The first stays.
                let _ = INITIALISED_BY.compare_exchange(
                    none,
                    own,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                Ok(())
            }
        }
    }

    /// Turns a call's two layers of result into one, and remembers the first fault that stays.
    #[inline]
    pub(crate) fn check(
        &self,
        call: &'static str,
        result: std::result::Result<CUresult, MissingEntryPoint>,
    ) -> Result<()> {
        match result {
            Ok(CUresult::CUDA_SUCCESS) => Ok(()),
            Ok(code) => Err(self.refused(call, code)),
            Err(missing) => Err(missing.into()),
        }
    }

    /// Whether a fault stays. For calls that the driver itself would let pass: after a fault, a context can
    /// still be made current (measured on an H200, driver 580).
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.inner.fault.get().is_some()
    }

    /// Refuses what is of another driver: its handles mean nothing to this one, which may follow them as
    /// pointers.
    #[inline]
    pub(crate) fn check_own(&self, of: &Self) -> Result<()> {
        if self == of {
            Ok(())
        } else {
            Err(Error::ForeignDriver)
        }
    }

    /// The first fault that stays, for what would otherwise work on without the driver.
    #[inline]
    pub(crate) fn check_fault(&self) -> Result<()> {
        match self.inner.fault.get() {
            None => Ok(()),
            Some(&(call, code)) => Err(Error::Poisoned { call, code }),
        }
    }

    #[cold]
    fn refused(&self, call: &'static str, code: CUresult) -> Error {
        if code.is_sticky() {
            let _ = self.inner.fault.set((call, code));
        }
        match self.inner.fault.get() {
            Some(&(call, code)) => Error::Poisoned { call, code },
            None if code == CUresult::CUDA_ERROR_NOT_INITIALIZED && was_forked() => {
                Error::Forked { call }
            }
            None => Error::Driver { call, code },
        }
    }
}

/// Tells whether this process is a forked child of one that had initialised CUDA. The driver then answers every call
/// with `CUDA_ERROR_NOT_INITIALIZED`, `cuInit` too.
fn was_forked() -> bool {
    let by = INITIALISED_BY.load(Ordering::Relaxed);
    by != 0 && by != process::id()
}

/// Whether two handles are of one driver: objects of different drivers must never meet.
impl PartialEq for Driver {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Driver {}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("source", &self.source())
            .field("version", &self.version())
            .finish()
    }
}

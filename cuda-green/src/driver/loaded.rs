//! The driver's handle: loading, initialisation, and the faults that make it unusable.

use std::{
    fmt, process,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use cuda_green_sys::{Api, CUresult, CUuuid, CudaVersion, DriverSpec, MissingEntryPoint};

use super::waiter::Waiter;
use crate::{
    error::{Error, Result},
    sync::native::Mutex,
};

/// Id of the process that first initialised CUDA through this library; 0 before. A forked child sees its parent's id.
static INITIALISED_BY: AtomicU32 = AtomicU32::new(0);

/// A loaded CUDA driver. Cheap to clone; all clones are the same driver.
///
/// Opening one library several times, in any way, gives handles of the same driver: objects made through one handle
/// work with objects made through another, and a device that is split through one is split for all.
///
/// CUDA does not work in a child that is forked after the process has initialised CUDA: there, every call fails with
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
    inner: Arc<DriverInner>,
}

struct DriverInner {
    api: Api,
    source: String,
    initialised: AtomicBool,
    /// Held while a thread initialises the driver.
    initialising: Mutex<()>,
    /// The first fault that makes the driver unusable: the call that failed, and its code.
    fault: OnceLock<(&'static str, CUresult)>,
    /// Whether the library is the simulator, set when this is first asked.
    simulated_library: OnceLock<bool>,
    /// Waits for the work that completions stand for.
    waiter: Waiter,
    #[cfg(feature = "test-utils")]
    simulator: Option<cuda_green_sim::Sim>,
}

impl Driver {
    /// Returns the process's driver: the one that `CUDA_GREEN_DRIVER` names, else the system's. It is loaded once.
    ///
    /// # Errors
    /// [`Error::Load`] if none can be loaded. A failure is not remembered: the next call tries again.
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

    /// Loads the driver that a specification names and ignores the environment.
    ///
    /// A simulated driver (`sim:h200@13.0`) needs the feature `test-utils`; each call makes a new one.
    ///
    /// # Errors
    /// [`Error::Load`], or the simulator's own error for a simulated driver.
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

    /// Opens a driver on a simulator that the caller holds, to inspect or steer it.
    ///
    /// # Errors
    /// [`Error::Simulator`].
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
        /// The live drivers of the process. They are few, and this list is read only when one is opened.
        static OPEN: Mutex<Vec<Weak<DriverInner>>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock();
        // A library is never unloaded and a live simulated driver is held here, so no other driver can have the same
        // addresses.
        let mut live = open.iter().filter_map(Weak::upgrade);
        let identity = api.identity();
        if let Some(inner) = live.find(|inner| inner.api.identity() == identity)
            && !identity.is_null()
        {
            return Self { inner };
        }
        let inner = Arc::new(DriverInner {
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

    /// Returns the CUDA version that the driver speaks.
    pub fn version(&self) -> CudaVersion {
        self.inner.api.version()
    }

    /// Returns the origin of the driver when it was first opened: `system`, a path, or `sim:` and a profile.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Returns a key that is unique among the live drivers of this process.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.inner) as usize
    }

    /// Returns whether this is a simulated driver, which has no GPU, also if it was loaded as a library. To find out,
    /// a loaded driver is initialised if it is not yet.
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

    /// Returns whether the first device's UUID begins with the letters of simulated devices, which no real UUID does.
    fn uuid_is_simulated(&self) -> bool {
        let mut uuid = CUuuid { bytes: [0; 16] };
        // SAFETY: the pointer is valid for the one struct that is written, and the driver is initialised.
        let answer = unsafe { self.api().cuDeviceGetUuid_v2(&mut uuid, 0) };
        let letters = uuid.bytes.iter().map(|byte| *byte as u8);
        matches!(answer, Ok(CUresult::CUDA_SUCCESS)) && letters.take(8).eq(*b"GREENSIM")
    }

    /// Returns the simulator behind a simulated driver.
    #[cfg(feature = "test-utils")]
    pub fn simulator(&self) -> Option<&cuda_green_sim::Sim> {
        self.inner.simulator.as_ref()
    }

    /// Returns the number of devices.
    ///
    /// # Errors
    /// [`Error::NoGpu`] if there is none; [`Error::Driver`].
    #[doc(alias = "cuDeviceGetCount")]
    pub fn device_count(&self) -> Result<u32> {
        self.init()?;
        let mut count = 0;
        // SAFETY: the pointer is valid for the one integer that is written.
        unsafe { self.cuDeviceGetCount(&mut count) }?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// Returns the raw entry points, for what this crate does not cover.
    pub fn api(&self) -> &Api {
        &self.inner.api
    }

    /// Returns the thread that waits for the work of completions.
    pub(crate) fn waiter(&self) -> &Waiter {
        &self.inner.waiter
    }

    /// Initialises the driver once. A failure is not remembered, since a device may appear later.
    fn init(&self) -> Result<()> {
        // First without the lock: if the process was forked, a thread of the parent may have held it at that moment.
        if self.inner.initialised.load(Ordering::Acquire) {
            return Ok(());
        }
        let _initialising = self.inner.initialising.lock();
        if self.inner.initialised.load(Ordering::Acquire) {
            return Ok(());
        }
        // SAFETY: the function takes no pointer, and 0 is the only flag value.
        match unsafe { self.cuInit(0) } {
            Err(error) if error.is_refusal(CUresult::CUDA_ERROR_NO_DEVICE) => Err(Error::NoGpu {
                source_name: self.source().to_owned(),
                driver: self.version(),
            }),
            Err(error) => Err(error),
            Ok(()) => {
                self.inner.initialised.store(true, Ordering::Release);
                let (none, own) = (0, process::id());
                // Only the first process is recorded.
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

    /// Merges a call's two layers of result into one, and remembers the first fault that makes the driver unusable.
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

    /// Returns whether an earlier fault has made the driver unusable. For calls that the driver itself would let pass:
    /// after such a fault, a context can still be made current (measured on an H200, driver 580).
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.inner.fault.get().is_some()
    }

    /// Ensures that an object belongs to this driver. Handles of another driver mean nothing here, and this driver
    /// might follow them as pointers.
    #[inline]
    pub(crate) fn check_own(&self, of: &Self) -> Result<()> {
        if self == of {
            Ok(())
        } else {
            Err(Error::ForeignDriver)
        }
    }

    /// Returns the fault that made the driver unusable as an error. For code that would otherwise go on without calling
    /// the driver.
    #[inline]
    pub(crate) fn check_fault(&self) -> Result<()> {
        match self.inner.fault.get() {
            None => Ok(()),
            Some(&(call, code)) => Err(Error::Poisoned { call, code }),
        }
    }

    /// Makes the error of a refused call, and remembers a fault that makes the driver unusable.
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

/// Returns whether this process is a forked child of one that had initialised CUDA. The driver then answers every call,
/// `cuInit` included, with `CUDA_ERROR_NOT_INITIALIZED`.
fn was_forked() -> bool {
    let initialiser = INITIALISED_BY.load(Ordering::Relaxed);
    initialiser != 0 && initialiser != process::id()
}

/// Two handles are equal if they refer to the same driver. Objects of different drivers cannot be used together.
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

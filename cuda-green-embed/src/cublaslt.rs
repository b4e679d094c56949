//! cuBLASLt: NVIDIA's library of matrix products, loaded at run time.
//!
//! Nothing of it is linked, so a program starts without it, and one build works with its versions for CUDA 12 and 13.

mod api;
mod choice;
mod product;
mod search;
#[cfg(feature = "test-utils")]
mod software;

use std::{
    ffi::CStr,
    fmt,
    path::{Path, PathBuf},
    ptr,
    sync::{Arc, Mutex},
};

use cuda_green::{ContextPolicy, CudaDevice, GreenContext, Kernel};

use api::{Functions, Handle, SUCCESS, Status};
pub use product::{Product, ProductShape};
use search::{Loaded, Surroundings};
#[cfg(feature = "test-utils")]
pub(crate) use software::{KERNEL as SOFTWARE_KERNEL, KERNEL_INPUTS as SOFTWARE_KERNEL_INPUTS};

use crate::error::{Error, Result};

/// The environment variable that names cuBLASLt's file. With it, no other is tried. A process with raised privileges
/// (set-user-id, set-group-id, file capabilities) ignores it.
pub const CUBLASLT_VARIABLE: &str = "CUDA_GREEN_CUBLASLT";

/// cuBLASLt on a device. The library is never unloaded, and any number of threads may use it at once.
pub struct CublasLt {
    functions: Functions,
    handle: RawHandle,
    path: PathBuf,
    device: CudaDevice,
    /// Made current where the library may use the current context.
    primary: GreenContext,
    /// Once it was needed.
    half_an_sm: Mutex<Option<Kernel>>,
}

/// The library's handle.
struct RawHandle(Handle);

// SAFETY: NVIDIA documents that a handle may be used by several threads at once.
unsafe impl Send for RawHandle {}
// SAFETY: as above.
unsafe impl Sync for RawHandle {}

impl CublasLt {
    /// Loads cuBLASLt for a device: the file that [`CUBLASLT_VARIABLE`] names, or else the first of these that can be
    /// loaded: the loader's (`libcublasLt.so.13`, then `.12`; on Windows `cublasLt64_13.dll`, then `_12`), and those in the
    /// folders of CUDA (`CUDA_HOME`, `CUDA_PATH`), of the Python environment (`VIRTUAL_ENV`, `CONDA_PREFIX`), of the
    /// system, and of the Python packages of the user and the system. Drivers before CUDA 13.0 get version 12.
    ///
    /// For a simulated driver (feature `test-utils`), it is one that computes on the CPU.
    ///
    /// # Errors
    /// [`Error::CublasLtMissing`] and [`Error::CublasLtUnloadable`] with what was tried; [`Error::CublasLt`];
    /// [`Error::Gpu`].
    pub fn load(device: &CudaDevice) -> Result<Arc<Self>> {
        #[cfg(feature = "test-utils")]
        if device.driver().simulator().is_some() {
            return Self::software(device);
        }
        let majors: &[u32] = match device.driver().version().major() {
            13.. => &[13, 12],
            _ => &[12],
        };
        let loaded = Surroundings {
            variable: &|name| std::env::var_os(name),
            root: Path::new("/"),
            privileged: cuda_green::sys::privileges_are_raised(),
            majors,
        }
        .load()?;
        Self::create(device, loaded)
    }

    /// Loads cuBLASLt for a device from a file, and ignores the environment.
    ///
    /// # Errors
    /// [`Error::CublasLtUnloadable`]; [`Error::CublasLt`]; [`Error::Gpu`].
    pub fn load_file(device: &CudaDevice, path: &Path) -> Result<Arc<Self>> {
        Self::create(device, search::load_file(path)?)
    }

    /// Makes one that computes on the CPU, for a device of a simulated driver. Its products are launched as kernels of the
    /// given stream, so graphs capture them.
    ///
    /// # Errors
    /// [`Error::CublasLt`] for the device of another driver; [`Error::Gpu`].
    #[cfg(feature = "test-utils")]
    pub fn software(device: &CudaDevice) -> Result<Arc<Self>> {
        software::on(device, |loaded| Self::create(device, loaded))
    }

    fn create(device: &CudaDevice, loaded: Loaded) -> Result<Arc<Self>> {
        let Loaded { functions, path } = loaded;
        let primary = GreenContext::primary(device, ContextPolicy::default())?;
        let mut handle = ptr::null_mut();
        let guard = primary.activate()?;
        // SAFETY: the pointer is valid for the one handle that is written.
        let status = unsafe { (functions.create)(&mut handle) };
        drop(guard);
        check(&functions, "cublasLtCreate", status)?;
        Ok(Arc::new(Self {
            functions,
            handle: RawHandle(handle),
            path,
            device: device.clone(),
            primary,
            half_an_sm: Mutex::new(None),
        }))
    }

    /// Prepares a product for this device. cuBLASLt is asked once for its best ways to compute it in so many bytes of
    /// workspace and, if given, on so many of the device's SMs. [`product_on`](Self::product_on) chooses that number.
    ///
    /// # Errors
    /// [`Error::UnsupportedPrecision`]; [`Error::CublasLt`], with the status 15 if there is no way to compute it;
    /// [`Error::Gpu`] for a shape without elements, or of more than 2³¹ in a row or column.
    pub fn product(
        self: &Arc<Self>,
        shape: ProductShape,
        workspace_bytes: usize,
        sm_count_target: Option<u32>,
    ) -> Result<Product> {
        Product::new(Arc::clone(self), shape, workspace_bytes, sm_count_target)
    }

    /// Returns the version: major, minor and patch.
    pub fn version(&self) -> (u32, u32, u32) {
        // SAFETY: the function takes nothing.
        let version = unsafe { (self.functions.get_version)() };
        let part = |number: usize| u32::try_from(number % 100).unwrap_or(0);
        (part(version / 10_000), part(version / 100), part(version))
    }

    /// Returns the file that it was loaded from. A name without a folder was found by the loader.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the device.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    fn check(&self, call: &'static str, status: Status) -> Result<()> {
        check(&self.functions, call, status)
    }
}

/// Makes the error of a refused call.
fn check(functions: &Functions, call: &'static str, status: Status) -> Result<()> {
    if status == SUCCESS {
        return Ok(());
    }
    // SAFETY: the function returns a text that lives as long as the library, for any number.
    let name = unsafe {
        let name = (functions.get_status_name)(status);
        (!name.is_null()).then(|| CStr::from_ptr(name))
    };
    Err(Error::CublasLt {
        call,
        status,
        name: name.unwrap_or(c"unknown").to_string_lossy().into_owned(),
    })
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // If the context cannot be made current: without it, rather than never.
        let guard = self.primary.activate();
        // SAFETY: the handle is this object's own, and its products hold the object.
        let status = unsafe { (self.functions.destroy)(self.handle.0) };
        let destroyed = self.check("cublasLtDestroy", status);
        if let Err(error) = destroyed.and(guard.map(drop).map_err(Error::from)) {
            log::warn!("dropping cuBLASLt: {error}");
        }
    }
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CublasLt")
            .field("version", &self.version())
            .field("path", &self.path)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

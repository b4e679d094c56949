//! A module and its kernels: loading, finding kernels, unloading.

use std::{fmt, sync::Arc};

use cuda_green_sys::{CUfunction, CUresult};

use super::attributes::{AttributesByFunction, FunctionAttributes};
use crate::{
    device::{CudaDevice, RawModule},
    error::{Error, Result},
};

/// Loaded code. One module serves every partition of its device: a kernel runs on the SMs of its stream.
#[derive(Clone)]
pub struct Module {
    inner: Arc<ModuleInner>,
}

struct ModuleInner {
    device: CudaDevice,
    raw: RawModule,
    attributes: AttributesByFunction,
}

impl Module {
    /// Compiles PTX for the device and loads it.
    ///
    /// ```
    /// use cuda_green::{Driver, Error, Module};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let text = ".version 8.0\n.target sm_90\n.address_size 64\n.entry k() { nonsense; }";
    /// let Err(Error::ImageRefused { log, .. }) = Module::load_ptx(&device, text) else {
    ///     unreachable!()
    /// };
    /// assert!(log.contains("nonsense"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for text with a NUL inside; [`Error::ImageRefused`], with the compiler's log,
    /// if the text does not compile or its PTX version is newer than the driver; [`Error::Driver`].
    #[doc(alias = "cuModuleLoadDataEx")]
    pub fn load_ptx(device: &CudaDevice, ptx: &str) -> Result<Self> {
        Ok(Self::from_raw(device, RawModule::load_ptx(device, ptx)?))
    }

    /// Loads an image of any [kind](crate::ImageKind): PTX, a cubin for the device's compute capability, or a fat
    /// binary. The kind is read from the first bytes. Text needs no NUL at its end.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let device: cuda_green::CudaDevice = unimplemented!();
    /// use cuda_green::Module;
    ///
    /// let image = std::fs::read("kernels.fatbin")?; // from `nvcc -fatbin`
    /// // SAFETY: our own build made the file.
    /// let module = unsafe { Module::load_image(&device, &image)? };
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`load_ptx`](Self::load_ptx); [`Error::InvalidArgument`] for a binary that is shorter than its headers
    /// say; [`Error::ImageRefused`] for one that has no code for this device.
    ///
    /// # Safety
    /// A binary is complete and was made by NVIDIA's tools. The driver gets a pointer without a length and trusts
    /// the contents; this function checks only the outer headers.
    #[doc(alias = "cuModuleLoadDataEx")]
    #[doc(alias = "cubin")]
    #[doc(alias = "fatbin")]
    pub unsafe fn load_image(device: &CudaDevice, image: &[u8]) -> Result<Self> {
        // SAFETY: the caller makes the same promise.
        let raw = unsafe { RawModule::load_image(device, image)? };
        Ok(Self::from_raw(device, raw))
    }

    fn from_raw(device: &CudaDevice, raw: RawModule) -> Self {
        Self {
            inner: Arc::new(ModuleInner {
                device: device.clone(),
                raw,
                attributes: AttributesByFunction::default(),
            }),
        }
    }

    /// Returns the module's device.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// Returns a kernel by the name of its entry, which is the mangled name if C++ was compiled without
    /// `extern "C"`.
    ///
    /// # Errors
    /// [`Error::NoSuchKernel`], with the names of the module's kernels, if none has that name; [`Error::Driver`].
    #[doc(alias = "cuModuleGetFunction")]
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let driver = self.inner.device.driver();
        let raw = match self.inner.raw.function(driver, name) {
            Err(error) if error.is_refusal(CUresult::CUDA_ERROR_NOT_FOUND) => {
                return Err(Error::NoSuchKernel {
                    name: name.to_owned(),
                    kernels: self.kernel_names().ok(),
                });
            }
            found => found?,
        };
        Ok(Kernel {
            module: self.clone(),
            raw,
            name: name.into(),
            attributes: self.inner.attributes.get(raw),
        })
    }

    /// Returns the names of the module's kernels in alphabetical order. Needs CUDA 12.4 or later.
    ///
    /// # Errors
    /// [`Error::MissingEntryPoint`] before CUDA 12.4; [`Error::Driver`].
    #[doc(alias = "cuModuleEnumerateFunctions")]
    pub fn kernel_names(&self) -> Result<Vec<String>> {
        self.inner.raw.kernel_names(self.inner.device.driver())
    }
}

impl Drop for ModuleInner {
    fn drop(&mut self) {
        match self.device.raw_primary_context() {
            Ok(context) => self.raw.unload(self.device.driver(), context),
            Err(error) => log::error!("unloading a module: {error}"),
        }
    }
}

/// A kernel of a [`Module`], which it keeps loaded.
#[derive(Clone)]
pub struct Kernel {
    pub(super) module: Module,
    pub(super) raw: CUfunction,
    name: Arc<str>,
    pub(super) attributes: Arc<FunctionAttributes>,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Returns the kernel's name in its module.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the kernel's module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Returns the raw function, which is valid while this object lives.
    pub fn raw(&self) -> CUfunction {
        self.raw
    }

    /// Returns the raw function for a call on this device, or an error if it is another device's or driver's.
    #[inline]
    pub(crate) fn raw_for(&self, device: &CudaDevice) -> Result<CUfunction> {
        device.check_own("the kernel", self.module.device())?;
        Ok(self.raw)
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("device", &self.inner.device)
            .finish()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("name", &self.name)
            .field("raw", &self.raw)
            .finish_non_exhaustive()
    }
}

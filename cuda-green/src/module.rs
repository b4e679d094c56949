//! Modules and kernels.

mod attributes;
mod image;
mod load;

use std::{
    ffi::{CStr, CString},
    fmt,
    sync::Arc,
};

use cuda_green_sys::{CUcontext, CUfunction, CUmodule, CUresult};

use attributes::{Attributes, AttributesByFunction};
use image::Image;
pub use image::ImageKind;

use crate::{
    device::CudaDevice,
    driver::Driver,
    error::{Error, Result},
};

/// Loaded code. One module serves every partition of its device: a kernel runs where its stream is.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Owned>,
}

struct Owned {
    device: CudaDevice,
    raw: RawModule,
    attributes: AttributesByFunction,
}

/// A module without its owner: whoever holds it unloads it.
pub(crate) struct RawModule(CUmodule);

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for RawModule {}
// SAFETY: as above; reading kernels from a module is thread-safe.
unsafe impl Sync for RawModule {}

impl RawModule {
    pub(crate) fn load_ptx(device: &CudaDevice, ptx: &str) -> Result<Self> {
        let image = Image::new(ptx.as_bytes())?;
        // Safe code must not make the driver read a binary: it trusts what is inside.
        match image.kind {
            ImageKind::Ptx => load::load(device, &image).map(Self),
            kind => Err(Error::InvalidArgument {
                name: "ptx",
                value: format!("a {kind}"),
                reason: "binaries are loaded by `Module::load_image`",
            }),
        }
    }

    pub(crate) fn function(&self, driver: &Driver, name: &str) -> Result<CUfunction> {
        let name = c_string("kernel", name)?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is live, the name a C string, the output valid.
        let result = unsafe {
            driver
                .api()
                .cuModuleGetFunction(&mut function, self.0, name.as_ptr())
        };
        driver.check("cuModuleGetFunction", result)?;
        Ok(function)
    }

    /// The names of its kernels, in alphabetical order.
    fn kernel_names(&self, driver: &Driver) -> Result<Vec<String>> {
        let mut count = 0;
        // SAFETY: the module is live, the output valid.
        let result = unsafe { driver.api().cuModuleGetFunctionCount(&mut count, self.0) };
        driver.check("cuModuleGetFunctionCount", result)?;
        let mut functions = vec![std::ptr::null_mut(); count as usize];
        // SAFETY: the module is live, and there is room for that many.
        let result = unsafe {
            driver
                .api()
                .cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, self.0)
        };
        driver.check("cuModuleEnumerateFunctions", result)?;
        let mut names = Vec::with_capacity(functions.len());
        for function in functions {
            let mut name = std::ptr::null();
            // SAFETY: the function is the module's, which is live; the output is valid.
            let result = unsafe { driver.api().cuFuncGetName(&mut name, function) };
            driver.check("cuFuncGetName", result)?;
            if !name.is_null() {
                // SAFETY: a string of the driver's that lives as long as the module.
                let name = unsafe { CStr::from_ptr(name) };
                names.push(name.to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Unloads it, with the context current that it was loaded in.
    pub(crate) fn unload(&self, driver: &Driver, context: CUcontext) {
        let _allowed = driver.beside_captures();
        // SAFETY: the caller holds the context.
        let pushed = unsafe { driver.api().cuCtxPushCurrent_v2(context) };
        let pushed = driver.check("cuCtxPushCurrent", pushed);
        // SAFETY: the caller gives up the module.
        driver.check_in_drop("cuModuleUnload", unsafe {
            driver.api().cuModuleUnload(self.0)
        });
        if let Err(error) = pushed {
            log::error!("unloading a module: {error}");
            return; // what is current is another's
        }
        let mut popped = std::ptr::null_mut();
        // SAFETY: the output is valid.
        driver.check_in_drop("cuCtxPopCurrent", unsafe {
            driver.api().cuCtxPopCurrent_v2(&mut popped)
        });
    }
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
    /// where it does not compile or its PTX version is newer than the driver; [`Error::Driver`].
    #[doc(alias = "cuModuleLoadDataEx")]
    pub fn load_ptx(device: &CudaDevice, ptx: &str) -> Result<Self> {
        Ok(Self::of(device, RawModule::load_ptx(device, ptx)?))
    }

    /// Loads an image of any [kind](ImageKind): PTX, a cubin for the device's compute capability, or a fat
    /// binary. The first bytes tell which it is; a NUL after text is not needed.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let device: cuda_green::CudaDevice = unimplemented!();
    /// use cuda_green::Module;
    ///
    /// let image = std::fs::read("kernels.fatbin")?; // from `nvcc -fatbin`
    /// // SAFETY: the file is our own build's.
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
    /// A binary is whole and was made by NVIDIA's tools. The driver gets a pointer without a length and trusts
    /// what it finds inside; here only the outer headers are checked.
    #[doc(alias = "cuModuleLoadDataEx")]
    #[doc(alias = "cubin")]
    #[doc(alias = "fatbin")]
    pub unsafe fn load_image(device: &CudaDevice, image: &[u8]) -> Result<Self> {
        let raw = load::load(device, &Image::new(image)?)?;
        Ok(Self::of(device, RawModule(raw)))
    }

    fn of(device: &CudaDevice, raw: RawModule) -> Self {
        Self {
            inner: Arc::new(Owned {
                device: device.clone(),
                raw,
                attributes: AttributesByFunction::default(),
            }),
        }
    }

    /// Its device.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// One of its kernels, by the name of its entry: the mangled one, where C++ was compiled without
    /// `extern "C"`.
    ///
    /// # Errors
    /// [`Error::NoSuchKernel`] where it has none of that name, with those that it has; [`Error::Driver`].
    #[doc(alias = "cuModuleGetFunction")]
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let driver = self.inner.device.driver();
        let raw = match self.inner.raw.function(driver, name) {
            Err(Error::Driver {
                code: CUresult::CUDA_ERROR_NOT_FOUND,
                ..
            }) => {
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
            attributes: self.inner.attributes.of(raw),
        })
    }

    /// The names of its kernels, in alphabetical order. CUDA 12.4 or later.
    ///
    /// # Errors
    /// [`Error::MissingEntryPoint`] before CUDA 12.4; [`Error::Driver`].
    #[doc(alias = "cuModuleEnumerateFunctions")]
    pub fn kernel_names(&self) -> Result<Vec<String>> {
        self.inner.raw.kernel_names(self.inner.device.driver())
    }
}

impl Drop for Owned {
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
    module: Module,
    raw: CUfunction,
    name: Arc<str>,
    attributes: Arc<Attributes>,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Its name in its module.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The raw function, valid while this object lives.
    pub fn raw(&self) -> CUfunction {
        self.raw
    }

    /// The same for a call of this device, if that is its own.
    #[inline]
    pub(crate) fn raw_for(&self, device: &CudaDevice) -> Result<CUfunction> {
        device.check_own("the kernel", self.module.device())?;
        Ok(self.raw)
    }
}

fn c_string(name: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Error::InvalidArgument {
        name,
        value: format!("text with a NUL at {}", error.nul_position()),
        reason: "the driver takes C strings",
    })
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

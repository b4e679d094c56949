//! Modules and kernels.

use std::{ffi::CString, fmt, sync::Arc};

use cuda_green_sys::{CUcontext, CUfunction, CUmodule};

use crate::{CudaDevice, Driver, Error, Result};

/// Loaded code. One module serves every partition of its device: a kernel runs where its stream is.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Owned>,
}

struct Owned {
    device: CudaDevice,
    raw: RawModule,
}

/// A module without its owner: whoever holds it unloads it.
pub(crate) struct RawModule(CUmodule);

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for RawModule {}
// SAFETY: as above; reading kernels from a module is thread-safe.
unsafe impl Sync for RawModule {}

impl RawModule {
    pub(crate) fn load(device: &CudaDevice, ptx: &str) -> Result<Self> {
        let image = c_string("ptx", ptx)?;
        let mut raw = std::ptr::null_mut();
        // Loading needs a current context; the primary one serves all green contexts of the device.
        device.with_primary(|| {
            // SAFETY: the image is a C string, which is how PTX is passed; the output is valid.
            let result = unsafe {
                device
                    .driver()
                    .api()
                    .cuModuleLoadData(&mut raw, image.as_ptr().cast())
            };
            device.driver().check("cuModuleLoadData", result)
        })?;
        Ok(Self(raw))
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

    /// Unloads it, with the context current that it was loaded in.
    pub(crate) fn unload(&self, driver: &Driver, context: CUcontext) {
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
    /// # Errors
    /// [`Error::InvalidArgument`] for text with a NUL inside; [`Error::Driver`] where it does not compile
    /// or its PTX version is newer than the driver.
    #[doc(alias = "cuModuleLoadData")]
    pub fn load_ptx(device: &CudaDevice, ptx: &str) -> Result<Self> {
        let raw = RawModule::load(device, ptx)?;
        Ok(Self {
            inner: Arc::new(Owned {
                device: device.clone(),
                raw,
            }),
        })
    }

    /// One of its kernels, by the name of its entry.
    ///
    /// # Errors
    /// [`Error::Driver`] with `CUDA_ERROR_NOT_FOUND` where it has none of that name.
    #[doc(alias = "cuModuleGetFunction")]
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let raw = self.inner.raw.function(self.inner.device.driver(), name)?;
        Ok(Kernel {
            module: self.clone(),
            raw,
        })
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
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// The raw function, valid while this object lives.
    pub fn raw(&self) -> CUfunction {
        self.raw
    }

    /// The same for a call of this driver, if that is its own.
    #[inline]
    pub(crate) fn raw_for(&self, driver: &Driver) -> Result<CUfunction> {
        driver.check_own(self.module.inner.device.driver())?;
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
            .field("raw", &self.raw)
            .finish_non_exhaustive()
    }
}

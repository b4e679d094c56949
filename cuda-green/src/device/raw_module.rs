//! Modules without an owner: loading, looking up kernels, unloading.

use std::ffi::{CStr, CString};

use cuda_green_sys::{CUcontext, CUfunction, CUmodule};

use super::{CudaDevice, load};
use crate::{
    driver::{Driver, log_failure},
    error::{Error, Result},
    image::{Image, ImageKind},
};

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

    /// # Safety
    /// A binary is whole and was made by NVIDIA's tools.
    pub(crate) unsafe fn load_image(device: &CudaDevice, image: &[u8]) -> Result<Self> {
        load::load(device, &Image::new(image)?).map(Self)
    }

    pub(crate) fn function(&self, driver: &Driver, name: &str) -> Result<CUfunction> {
        let name = c_string("kernel", name)?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is live, the name a C string, the output valid.
        unsafe { driver.cuModuleGetFunction(&mut function, self.0, name.as_ptr()) }?;
        Ok(function)
    }

    /// The names of its kernels, in alphabetical order.
    pub(crate) fn kernel_names(&self, driver: &Driver) -> Result<Vec<String>> {
        let mut count = 0;
        // SAFETY: the module is live, the output valid.
        unsafe { driver.cuModuleGetFunctionCount(&mut count, self.0) }?;
        let mut functions = vec![std::ptr::null_mut(); count as usize];
        // SAFETY: the module is live, and there is room for that many.
        unsafe { driver.cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, self.0) }?;
        let mut names = Vec::with_capacity(functions.len());
        for function in functions {
            let mut name = std::ptr::null();
            // SAFETY: the function is the module's, which is live; the output is valid.
            unsafe { driver.cuFuncGetName(&mut name, function) }?;
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
        let pushed = unsafe { driver.cuCtxPushCurrent_v2(context) };
        // SAFETY: the caller gives up the module.
        log_failure(unsafe { driver.cuModuleUnload(self.0) });
        if let Err(error) = pushed {
            log::error!("unloading a module: {error}");
            return; // what is current is another's
        }
        let mut popped = std::ptr::null_mut();
        // SAFETY: the output is valid.
        log_failure(unsafe { driver.cuCtxPopCurrent_v2(&mut popped) });
    }
}

fn c_string(name: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Error::InvalidArgument {
        name,
        value: format!("text with a NUL at {}", error.nul_position()),
        reason: "the driver takes C strings",
    })
}

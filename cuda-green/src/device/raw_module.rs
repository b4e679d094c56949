//! Raw modules, which their holder has to unload: finding kernels, unloading.

use std::ffi::{CStr, CString};

use cuda_green_sys::{CUcontext, CUfunction, CUmodule};

use crate::{
    driver::{Driver, log_failure},
    error::{Error, Result},
};

/// The handle of a loaded module. Its holder has to unload it.
pub(crate) struct RawModule(pub(super) CUmodule);

// SAFETY: the handle is an opaque token that the driver accepts from every thread.
unsafe impl Send for RawModule {}
// SAFETY: as above; reading kernels from a module is thread-safe.
unsafe impl Sync for RawModule {}

impl RawModule {
    /// Returns a kernel by the name of its entry.
    pub(crate) fn function(&self, driver: &Driver, name: &str) -> Result<CUfunction> {
        let name = c_string("kernel", name)?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is live, the name a C string, the output valid.
        unsafe { driver.cuModuleGetFunction(&mut function, self.0, name.as_ptr()) }?;
        Ok(function)
    }

    /// Returns the names of the module's kernels in alphabetical order.
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
                // SAFETY: the driver's string lives as long as the module.
                let name = unsafe { CStr::from_ptr(name) };
                names.push(name.to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Unloads the module, with the context current in which it was loaded.
    pub(crate) fn unload(&self, driver: &Driver, context: CUcontext) {
        let _allowed = driver.beside_captures();
        // SAFETY: the caller holds the context.
        let pushed = unsafe { driver.cuCtxPushCurrent_v2(context) };
        // SAFETY: the caller does not use the module again.
        log_failure(unsafe { driver.cuModuleUnload(self.0) });
        if let Err(error) = pushed {
            log::error!("unloading a module: {error}");
            return; // the push failed, so there is nothing to pop
        }
        let mut popped = std::ptr::null_mut();
        // SAFETY: the output is valid.
        log_failure(unsafe { driver.cuCtxPopCurrent_v2(&mut popped) });
    }
}

/// Makes a C string.
fn c_string(name: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Error::InvalidArgument {
        name,
        value: format!("text with a NUL at {}", error.nul_position()),
        reason: "the driver takes C strings",
    })
}

//! Finding the driver's library and its entry points: the few doors through which an [`Api`] comes.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
};

use libloading::Library;

use crate::{
    Absence, Api, CUresult, CudaVersion, DriverSpec, Error, Platform, entry_points::Resolution,
    search::candidates,
};

/// `cuGetProcAddress_v2`, the driver's own resolver since CUDA 12.0.
type GetProcAddress =
    unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_uint) -> CUresult;

/// `CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT`: the name is known, in an older ABI only.
const VERSION_NOT_SUFFICIENT: c_uint = 2;

impl Api {
    /// Loads the driver that [`CUDA_GREEN_DRIVER`](crate::DRIVER_VARIABLE) names, or else the system's.
    ///
    /// Nothing is initialised: `cuInit` is the caller's. The library stays loaded for the rest of the
    /// process, because a driver starts threads that outlive every handle.
    ///
    /// # Errors
    /// [`Error::DriverNotFound`], or for a named library [`Error::DriverUnloadable`];
    /// [`Error::NotACudaDriver`] for a library that is something else.
    pub fn load() -> Result<Self, Error> {
        Self::load_spec(&DriverSpec::from_env()?)
    }

    /// Loads the driver of a specification, whatever the environment says.
    ///
    /// # Errors
    /// As [`Api::load`]; [`Error::Simulated`] for a simulated driver, which this crate has none of.
    pub fn load_spec(spec: &DriverSpec) -> Result<Self, Error> {
        let (paths, only) = candidates(spec, Platform::CURRENT)?;
        let mut tried = Vec::new();
        for path in paths {
            // SAFETY: the initialisers of a library that the user or the system names as the CUDA
            // driver are trusted, as by every program linked to it.
            match unsafe { Library::new(path) } {
                Ok(library) => return Self::from_library(library, path),
                Err(error) => {
                    let reason = innermost(&error);
                    if only {
                        return Err(Error::DriverUnloadable {
                            path: path.into(),
                            reason,
                        });
                    }
                    tried.push((path.into(), reason));
                }
            }
        }
        Err(Error::DriverNotFound { tried })
    }

    /// Fills the table from any resolver: the door for simulated drivers, and for programs that have
    /// loaded a driver by other means.
    ///
    /// `resolve` is asked with the name that `cuGetProcAddress` knows and the version of the ABI that
    /// is bound; it answers null where there is none.
    ///
    /// # Errors
    /// [`Error::NotACudaDriver`] where there is no `cuDriverGetVersion`; [`Error::VersionUnknown`]
    /// where that fails.
    ///
    /// # Safety
    /// Each address must be the driver's function of that name in that version's ABI, and callable
    /// for as long as the [`Api`] lives.
    pub unsafe fn from_resolver(
        mut resolve: impl FnMut(&CStr, CudaVersion) -> *const c_void,
    ) -> Result<Self, Error> {
        // SAFETY: the caller's promise is the one asked for.
        let api = unsafe { Self::fill(|entry| Ok(resolve(entry.proc_name, entry.since))) };
        api.with_version(Path::new("the resolver"))
    }

    fn from_library(library: Library, path: &Path) -> Result<Self, Error> {
        // SAFETY: the type is that of the symbol, which has had it since CUDA 12.0.
        let get_proc_address = unsafe { library.get::<GetProcAddress>(c"cuGetProcAddress_v2") }
            .ok()
            .map(|symbol| *symbol);
        // SAFETY: both ways give the driver's function of that name and ABI, and the library is never
        // unloaded while the table lives (see below).
        let api = unsafe {
            Self::fill(|entry| match get_proc_address {
                Some(function) => ask(function, entry.proc_name, entry.since),
                None => library
                    .get::<*const c_void>(entry.symbol)
                    .map(|symbol| *symbol)
                    .map_err(|_| Absence::NotFound),
            })
        };
        let api = api.with_version(path)?;
        // A driver's threads and exit handlers run code of the library, so it must never be unloaded.
        std::mem::forget(library);
        Ok(api)
    }

    /// Reads the version, which every later error names.
    fn with_version(mut self, path: &Path) -> Result<Self, Error> {
        let mut raw = 0;
        // SAFETY: the pointer is valid for the one integer that is written, and the function needs no
        // initialised driver.
        let result = unsafe { self.cuDriverGetVersion(&mut raw) }.map_err(|missing| {
            Error::NotACudaDriver {
                path: path.into(),
                symbol: missing.entry_point.name(),
            }
        })?;
        result.ok().map_err(Error::VersionUnknown)?;
        self.version = CudaVersion::from_raw(raw);
        Ok(self)
    }
}

/// Asks the driver's resolver with the version of the ABI that is bound, never with the driver's own,
/// which would answer with an ABI that this binding does not know.
///
/// # Safety
/// `function` is a driver's `cuGetProcAddress_v2`.
unsafe fn ask(function: GetProcAddress, name: &CStr, since: CudaVersion) -> Resolution {
    let mut address = std::ptr::null_mut();
    let mut status = 0;
    // SAFETY: the name is a C string, both outputs are valid, and flag 0 asks for the default stream's
    // usual form.
    let result = unsafe { function(name.as_ptr(), &mut address, since.to_raw(), 0, &mut status) };
    match result.ok() {
        Ok(()) if !address.is_null() => Ok(address.cast_const()),
        _ if status == VERSION_NOT_SUFFICIENT => Err(Absence::OlderAbi),
        _ => Err(Absence::NotFound),
    }
}

/// The text of the last cause, which is the system loader's own.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

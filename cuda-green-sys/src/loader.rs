//! Finding the driver's library and its entry points: all constructors of [`Api`].

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    mem::ManuallyDrop,
    path::Path,
};

use libloading::Library;

use crate::{
    bindings::CUresult,
    driver_spec::{DriverSpec, Platform, candidates},
    entry_points::{Absence, Api, DRIVER_GET_VERSION, EntryPoint, Resolution},
    error::Error,
    library_path::{interned, of_function},
    version::CudaVersion,
};

/// `cuGetProcAddress_v2`, the driver's own resolver since CUDA 12.0.
type GetProcAddress =
    unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_uint) -> CUresult;

/// `cuDriverGetVersion`.
type DriverGetVersion = unsafe extern "C" fn(*mut c_int) -> CUresult;

/// `CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT`: the name is known, in an older ABI only.
const VERSION_NOT_SUFFICIENT: c_uint = 2;

impl Api {
    /// Loads the driver that [`CUDA_GREEN_DRIVER`](crate::DRIVER_VARIABLE) names, or else the system's.
    ///
    /// Nothing is initialised: calling `cuInit` is up to the caller. The library stays loaded for the rest of the
    /// process, because a driver starts threads that outlive every handle. A library that is refused stays loaded as
    /// well.
    ///
    /// Any number of threads may load at once, and repeatedly: the system keeps one copy of the library, and each
    /// call fills a table of its own. `cuda_green::Driver::load` keeps one table for the whole process.
    ///
    /// # Errors
    /// [`Error::DriverNotFound`], or for a named library [`Error::DriverUnloadable`];
    /// [`Error::NotACudaDriver`], [`Error::VersionUnknown`] or [`Error::VersionImpossible`] for a library
    /// that is something else, such as the stub of a toolkit; [`Error::VariableRefused`] where the
    /// environment names a driver in a process with raised privileges.
    pub fn load() -> Result<Self, Error> {
        Self::load_spec(&DriverSpec::from_env()?)
    }

    /// Loads the driver of a specification and ignores the environment.
    ///
    /// # Errors
    /// As [`Api::load`]; [`Error::InvalidSpec`] for a path that no file can have; [`Error::Simulated`] for a
    /// simulated driver, because this crate contains none.
    pub fn load_spec(spec: &DriverSpec) -> Result<Self, Error> {
        let (paths, only) = candidates(spec, Platform::CURRENT)?;
        let mut tried = Vec::new();
        for path in paths {
            // SAFETY: the initialisers of a library that the user or the system names as the CUDA
            // driver are trusted, as by every program linked to it.
            match unsafe { Library::new(path) } {
                // The library's initialisers have run and may have started threads that keep running. From here on
                // the library must never be unloaded, even if it is refused.
                Ok(library) => return Self::from_library(&ManuallyDrop::new(library), path),
                Err(error) => {
                    let reason = reason(&error, path);
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

    /// Fills the table from any resolver, such as a simulated driver or a driver that the program loaded by other
    /// means.
    ///
    /// `resolve` receives the name that `cuGetProcAddress` knows and the version of the bound ABI. It returns null
    /// for an unknown function.
    ///
    /// # Errors
    /// [`Error::NotACudaDriver`] if there is no `cuDriverGetVersion`; [`Error::VersionUnknown`] if that fails;
    /// [`Error::VersionImpossible`] if it reports a version that no driver has.
    ///
    /// # Safety
    /// Each address must be the driver's function of that name in that version's ABI, and callable
    /// for as long as the [`Api`] lives.
    pub unsafe fn from_resolver(
        mut resolve: impl FnMut(&CStr, CudaVersion) -> *const c_void,
    ) -> Result<Self, Error> {
        // SAFETY: the caller's promise is the one asked for.
        unsafe {
            Self::from_source(Path::new("the resolver"), None, |entry| {
                Ok(resolve(entry.proc_name, entry.since))
            })
        }
    }

    /// Fills the table from a library that is never unloaded.
    fn from_library(library: &ManuallyDrop<Library>, path: &Path) -> Result<Self, Error> {
        // SAFETY: the type is that of the symbol, which has had it since CUDA 12.0.
        let get_proc_address = unsafe { library.get::<GetProcAddress>(c"cuGetProcAddress_v2") }
            .ok()
            .map(|symbol| *symbol);
        // The library that answers for the driver need not be the one that was opened. It may be one that the opened
        // library is linked to, or one that was loaded earlier to intercept calls.
        let answers = match get_proc_address {
            Some(function) => Some(function as *const c_void),
            None => look_up(library, &DRIVER_GET_VERSION).ok(),
        };
        let answers = answers
            .and_then(of_function)
            .unwrap_or_else(|| interned(path));
        // SAFETY: both ways give the driver's function of that name and ABI, and the library is never
        // unloaded.
        unsafe {
            Self::from_source(answers, Some(answers), |entry| match get_proc_address {
                Some(function) => ask(function, entry.proc_name, entry.since),
                None => look_up(library, entry),
            })
        }
    }

    /// Asks for the version, which every later error names, and then resolves the other entry points.
    ///
    /// # Safety
    /// As [`Api::fill`] asks, and `cuDriverGetVersion` needs no version to be right.
    unsafe fn from_source(
        path: &Path,
        library: Option<&'static Path>,
        mut resolve: impl FnMut(&'static EntryPoint) -> Resolution,
    ) -> Result<Self, Error> {
        let address = match resolve(&DRIVER_GET_VERSION) {
            Ok(address) if !address.is_null() => address,
            _ => {
                return Err(Error::NotACudaDriver {
                    path: path.into(),
                    symbol: DRIVER_GET_VERSION.name(),
                });
            }
        };
        // SAFETY: the address is not null, and the caller vouches that it is this function, whose type
        // has been the same in every version.
        let get_version =
            unsafe { std::mem::transmute::<*const c_void, DriverGetVersion>(address) };
        let mut raw = 0;
        // SAFETY: the pointer is valid for the one integer that is written, and the function needs no
        // initialised driver.
        let answer = unsafe { get_version(&mut raw) };
        answer.ok().map_err(|code| Error::VersionUnknown {
            path: path.into(),
            code,
        })?;
        let version = CudaVersion::reported(raw).ok_or_else(|| Error::VersionImpossible {
            path: path.into(),
            reported: raw,
        })?;
        // SAFETY: the caller's promise is the one asked for.
        Ok(unsafe { Self::fill(version, library, resolve) })
    }
}

/// Asks the driver's resolver for the ABI that is bound. The driver's own version would give a newer ABI, which this
/// binding does not know.
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

/// Looks a symbol up in the library, for drivers older than `cuGetProcAddress_v2`. A symbol's name contains its ABI,
/// so no other ABI can be found.
fn look_up(library: &Library, entry: &EntryPoint) -> Resolution {
    let get = |name: &CStr| {
        // SAFETY: the address is not used as anything but an address here.
        unsafe { library.get::<*const c_void>(name) }.map(|symbol| *symbol)
    };
    get(entry.symbol).map_err(|_| match get(entry.proc_name) {
        Ok(_) => Absence::OlderAbi,
        Err(_) => Absence::NotFound,
    })
}

/// Returns the text of the innermost cause, which is the system loader's message, together with the path.
fn reason(error: &dyn std::error::Error, path: &Path) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let (text, path) = (error.to_string(), path.display().to_string());
    if text.contains(&path) {
        text
    } else {
        format!("{path}: {text}")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::entry_points::{ENTRY_POINTS, MissingEntryPoint};

    extern "C" fn speaks_12_4(version: *mut c_int) -> CUresult {
        // SAFETY: the loader passes a valid pointer; nothing else calls this.
        unsafe { *version = 12040 };
        CUresult::CUDA_SUCCESS
    }

    #[test]
    fn what_is_newer_than_the_driver_is_absent_even_where_the_driver_has_an_address_for_it() {
        let address = speaks_12_4 as DriverGetVersion as *const c_void;
        // SAFETY: only `cuDriverGetVersion` is called, and the address is a function of its type.
        let api = unsafe { Api::from_resolver(|_, _| address) }.unwrap();
        let version = CudaVersion::new(12, 4);
        assert_eq!(api.version(), version);
        for (entry, absence) in api.entry_points() {
            let expected = (entry.since > version).then_some(Absence::OlderAbi);
            assert_eq!(absence, expected, "{}", entry.name());
        }
        // SAFETY: the driver lacks it, so nothing is called.
        let missing = unsafe {
            api.cuStreamGetCtx_v2(
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        assert_eq!(
            missing.unwrap_err().to_string(),
            "cuStreamGetCtx_v2 needs a driver of CUDA 12.5 or later; this one speaks CUDA 12.4 \
             and has the function only in an older form"
        );
    }

    /// Loads a driver that reports this version, or fails with this code.
    fn reporting(reported: c_int, code: CUresult) -> Result<CudaVersion, String> {
        thread_local!(static ANSWER: Cell<(c_int, CUresult)> = const {
            Cell::new((0, CUresult::CUDA_SUCCESS))
        });
        extern "C" fn tells(version: *mut c_int) -> CUresult {
            let (reported, code) = ANSWER.get();
            // SAFETY: the loader passes a valid pointer; nothing else calls this.
            unsafe { *version = reported };
            code
        }
        ANSWER.set((reported, code));
        let address = tells as DriverGetVersion as *const c_void;
        // SAFETY: only `cuDriverGetVersion` is called, and the address is a function of its type.
        let api = unsafe { Api::from_resolver(|_, _| address) };
        api.map(|api| api.version())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_version_that_no_driver_has_is_an_error_that_tells_it() {
        let version_of = |raw| reporting(raw, CUresult::CUDA_SUCCESS);
        for raw in [i32::MIN, -1, 0, 1, 12, 999, i32::MAX] {
            let said = version_of(raw).unwrap_err();
            assert!(said.contains(&format!("the version {raw} ")), "{said}");
        }
        for (raw, version) in [(1000, (1, 0)), (12041, (12, 4)), (65_535_990, (65_535, 99))] {
            assert_eq!(version_of(raw), Ok(CudaVersion::new(version.0, version.1)));
        }
    }

    #[test]
    fn a_stub_is_told_from_a_driver_that_fails() {
        let stub = reporting(12040, CUresult::CUDA_ERROR_STUB_LIBRARY).unwrap_err();
        assert!(
            stub.contains("for linking only") && stub.contains("LD_LIBRARY_PATH"),
            "{stub}"
        );
        let fails = reporting(12040, CUresult::CUDA_ERROR_UNKNOWN).unwrap_err();
        assert!(fails.contains("CUDA_ERROR_UNKNOWN (999)"), "{fails}");
        assert!(!fails.contains("linking"), "{fails}");
    }

    #[test]
    fn what_the_driver_s_version_has_and_it_lacks_is_hidden_by_something() {
        let version = speaks_12_4 as DriverGetVersion as *const c_void;
        // SAFETY: only `cuDriverGetVersion` is called, and the address is a function of its type.
        let api = unsafe {
            Api::from_resolver(|name, _| match name.to_bytes() {
                b"cuDriverGetVersion" => version,
                _ => std::ptr::null(),
            })
        }
        .unwrap();
        // SAFETY: the driver lacks it, so nothing is called.
        let hidden = unsafe { api.cuInit(0) }.unwrap_err();
        let said = hidden.to_string();
        assert!(
            said.starts_with(
                "CUDA 12.4 has cuInit (since 2.0), but the driver does not provide it: "
            ),
            "{said}"
        );
        let hidden = MissingEntryPoint {
            library: Some(interned(Path::new("/a/shim.so"))),
            ..hidden
        };
        let said = hidden.to_string();
        assert!(
            said.contains("but /a/shim.so does not provide it: it stands in front of the driver"),
            "{said}"
        );
        let older = MissingEntryPoint {
            absence: Absence::OlderAbi,
            ..hidden
        };
        assert!(
            older
                .to_string()
                .contains("provides only an older form of it: "),
            "{older}"
        );
    }

    #[test]
    fn a_resolver_that_has_nothing_is_no_driver() {
        // SAFETY: no address is given.
        let nothing = unsafe { Api::from_resolver(|_, _| std::ptr::null()) };
        assert!(matches!(nothing, Err(Error::NotACudaDriver { .. })));
    }

    #[test]
    fn the_version_is_asked_for_as_the_table_says() {
        let row = ENTRY_POINTS
            .iter()
            .find(|entry| entry.symbol == DRIVER_GET_VERSION.symbol)
            .unwrap();
        assert_eq!(
            (row.proc_name, row.since),
            (DRIVER_GET_VERSION.proc_name, DRIVER_GET_VERSION.since)
        );
    }
}

//! Finding the driver's library and its entry points: the few doors through which an [`Api`] comes.

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
    /// Nothing is initialised: `cuInit` is the caller's. The library stays loaded for the rest of the
    /// process, because a driver starts threads that outlive every handle; so does one that is refused.
    ///
    /// Any number of threads may load at once, and as often as they like: the system keeps one copy of
    /// the library, and each call fills a table of its own. `cuda_green::Driver::load` keeps one table
    /// for the whole process.
    ///
    /// # Errors
    /// [`Error::DriverNotFound`], or for a named library [`Error::DriverUnloadable`];
    /// [`Error::NotACudaDriver`], [`Error::VersionUnknown`] or [`Error::VersionImpossible`] for a library
    /// that is something else, such as the stub of a toolkit; [`Error::VariableRefused`] where the
    /// environment names a driver in a process with raised privileges.
    pub fn load() -> Result<Self, Error> {
        Self::load_spec(&DriverSpec::from_env()?)
    }

    /// Loads the driver of a specification, whatever the environment says.
    ///
    /// # Errors
    /// As [`Api::load`]; [`Error::InvalidSpec`] for a path that no file can have; [`Error::Simulated`] for a
    /// simulated driver, which this crate has none of.
    pub fn load_spec(spec: &DriverSpec) -> Result<Self, Error> {
        let (paths, only) = candidates(spec, Platform::CURRENT)?;
        let mut tried = Vec::new();
        for path in paths {
            // SAFETY: the initialisers of a library that the user or the system names as the CUDA
            // driver are trusted, as by every program linked to it.
            match unsafe { Library::new(path) } {
                // Code of the library's has run already, its initialisers', and may have started threads that
                // run on: from here on it must never be unloaded, whatever comes of it.
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

    /// Fills the table from any resolver: the door for simulated drivers, and for programs that have
    /// loaded a driver by other means.
    ///
    /// `resolve` is asked with the name that `cuGetProcAddress` knows and the version of the ABI that
    /// is bound; it answers null where there is none.
    ///
    /// # Errors
    /// [`Error::NotACudaDriver`] where there is no `cuDriverGetVersion`; [`Error::VersionUnknown`]
    /// where that fails; [`Error::VersionImpossible`] where it tells nonsense.
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
        // Whoever answers for the driver: it need not be the library that was opened, but one that this is
        // linked to, or one that was loaded before it to stand in its way.
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

    /// Asks for the version, which every later error names, and then for all the rest.
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
        let version = CudaVersion::told(raw).ok_or_else(|| Error::VersionImpossible {
            path: path.into(),
            told: raw,
        })?;
        // SAFETY: the caller's promise is the one asked for.
        Ok(unsafe { Self::fill(version, library, resolve) })
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

/// Looks the symbol up in the library, for drivers from before `cuGetProcAddress_v2`. A symbol bears its
/// ABI in its name, so that only the very one can be found.
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

/// The text of the last cause, which is the system loader's own, with the path that it is about.
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

    /// What comes of a driver that tells this version, or refuses with this code.
    fn telling(told: c_int, code: CUresult) -> Result<CudaVersion, String> {
        thread_local!(static ANSWER: Cell<(c_int, CUresult)> = const {
            Cell::new((0, CUresult::CUDA_SUCCESS))
        });
        extern "C" fn tells(version: *mut c_int) -> CUresult {
            let (told, code) = ANSWER.get();
            // SAFETY: the loader passes a valid pointer; nothing else calls this.
            unsafe { *version = told };
            code
        }
        ANSWER.set((told, code));
        let address = tells as DriverGetVersion as *const c_void;
        // SAFETY: only `cuDriverGetVersion` is called, and the address is a function of its type.
        let api = unsafe { Api::from_resolver(|_, _| address) };
        api.map(|api| api.version())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_version_that_no_driver_has_is_an_error_that_tells_it() {
        let told = |raw| telling(raw, CUresult::CUDA_SUCCESS);
        for raw in [i32::MIN, -1, 0, 1, 12, 999, i32::MAX] {
            let said = told(raw).unwrap_err();
            assert!(said.contains(&format!("says {raw} ")), "{said}");
        }
        for (raw, version) in [(1000, (1, 0)), (12041, (12, 4)), (65_535_990, (65_535, 99))] {
            assert_eq!(told(raw), Ok(CudaVersion::new(version.0, version.1)));
        }
    }

    #[test]
    fn a_stub_is_told_from_a_driver_that_fails() {
        let stub = telling(12040, CUresult::CUDA_ERROR_STUB_LIBRARY).unwrap_err();
        assert!(
            stub.contains("for linking only") && stub.contains("LD_LIBRARY_PATH"),
            "{stub}"
        );
        let fails = telling(12040, CUresult::CUDA_ERROR_UNKNOWN).unwrap_err();
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
            said.starts_with("CUDA 12.4 has cuInit (since 2.0), but the driver does not give it: "),
            "{said}"
        );
        let hidden = MissingEntryPoint {
            library: Some(interned(Path::new("/a/shim.so"))),
            ..hidden
        };
        let said = hidden.to_string();
        assert!(
            said.contains("but /a/shim.so does not give it: it stands in front of the driver"),
            "{said}"
        );
        let older = MissingEntryPoint {
            absence: Absence::OlderAbi,
            ..hidden
        };
        assert!(
            older
                .to_string()
                .contains("gives an older form of it only: "),
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

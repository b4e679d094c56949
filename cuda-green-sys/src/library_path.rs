//! Paths of loaded libraries, for errors that name them.

use std::{collections::BTreeSet, ffi::c_void, path::Path};

use crate::sync::Mutex;

/// Returns a copy of a path that lives as long as the process, because its library stays loaded that long.
///
/// There is one copy for each path, however often its library is opened.
pub(crate) fn interned(path: &Path) -> &'static Path {
    static PATHS: Mutex<BTreeSet<&'static Path>> = Mutex::new(BTreeSet::new());
    let mut paths = PATHS.lock();
    match paths.get(path) {
        Some(path) => path,
        None => {
            let path = Box::leak(Box::<Path>::from(path));
            paths.insert(path);
            path
        }
    }
}

/// Returns the file of the library that holds a function, as the system's loader reports it.
///
/// If a name was looked up in several folders, only the loader knows in which of them it was found.
#[cfg(unix)]
pub(crate) fn of_function(address: *const c_void) -> Option<&'static Path> {
    use std::{ffi::CStr, ffi::OsStr, os::unix::ffi::OsStrExt};

    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the function only compares the address with those of loaded libraries, and the output is valid
    // for the struct that it writes.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) } != 0;
    // SAFETY: all of the struct's fields are pointers, which may be null, as they were made above.
    let name = unsafe { info.assume_init() }.dli_fname;
    if !found || name.is_null() {
        return None;
    }
    // SAFETY: a name that is not null is a C string owned by the loader. It lives as long as its library, which
    // is loaded, because the caller has one of its functions.
    let name = unsafe { CStr::from_ptr(name) };
    Some(interned(Path::new(OsStr::from_bytes(name.to_bytes()))))
}

/// Returns `None`: this platform has no such query.
#[cfg(not(unix))]
pub(crate) fn of_function(_: *const c_void) -> Option<&'static Path> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_interned_once() {
        let path = |text: &str| interned(Path::new(text));
        assert_eq!(path("/a/libcuda.so.1"), Path::new("/a/libcuda.so.1"));
        assert!(std::ptr::eq(path("/a/b"), path("/a/b")));
        assert_ne!(path("/a/b"), path("/a/c"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no dladdr")]
    #[cfg(unix)]
    fn a_function_is_of_the_file_that_holds_it() {
        let own = of_function(a_path_is_interned_once as fn() as *const c_void).unwrap();
        let program = std::env::current_exe().unwrap();
        assert_eq!(own.file_name(), program.file_name());
        assert_eq!(of_function(std::ptr::null()), None);
    }
}

//! The library that this process has loaded as its driver.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the file that the driver was loaded from, if the system lists the mappings of this process.
///
/// `source` is the driver's own account: the named library may not be called `libcuda`.
pub fn loaded_library(source: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    mapped(&maps, fs::canonicalize(source).ok().as_deref())
}

/// Finds the named library, or else one with the name of a driver, to which the named one may link.
fn mapped(maps: &str, named: Option<&Path>) -> Option<PathBuf> {
    let paths = || {
        let lines = maps.lines().filter_map(|line| line.split_once('/'));
        lines.map(|(_, path)| PathBuf::from(format!("/{path}")))
    };
    let is_called_so = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libcuda.so")
    };
    paths()
        .find(|path| named == Some(path))
        .or_else(|| paths().find(is_called_so))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_library_that_was_named_comes_before_the_driver_behind_it() {
        let maps = "7f00-7f01 r-xp 00000000 08:01 17  /usr/lib/libcuda.so.580.1\n\
                    7f02-7f03 rw-p 00000000 00:00 0\n\
                    7f04-7f05 r-xp 00000000 08:01 18  /opt/a shim.so\n";
        let mapped = |named: Option<&str>| mapped(maps, named.map(Path::new));
        assert_eq!(
            mapped(Some("/opt/a shim.so")),
            Some("/opt/a shim.so".into())
        );
        let driver = Some(PathBuf::from("/usr/lib/libcuda.so.580.1"));
        assert_eq!(mapped(None), driver);
        assert_eq!(mapped(Some("/opt/other.so")), driver);
        assert_eq!(super::mapped("", None), None);
    }

    #[test]
    fn a_library_is_found_by_the_name_that_it_was_given() {
        // Every process has mapped its own program.
        let program = std::env::current_exe().unwrap();
        let program = fs::canonicalize(program).unwrap();
        assert_eq!(loaded_library(program.to_str().unwrap()), Some(program));
        assert_eq!(loaded_library("sim:h200@13.0"), None);
        assert_eq!(loaded_library("/nowhere/libother.so"), None);
    }
}

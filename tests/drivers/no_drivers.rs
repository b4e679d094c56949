//! Files that are no drivers: each gives a clear error, and nothing else is tried.

use std::{fs, os::unix::fs::PermissionsExt};

use cuda_green_sys::DRIVER_VARIABLE;
use driver_matrix::{
    drivers,
    skip::{note, skip},
};

use crate::{made_drivers::small_driver, *};

#[test]
fn a_named_driver_that_cannot_be_loaded_is_an_error_and_nothing_else_is_tried() {
    // A real driver lies where the system's loader finds it, and must not be taken instead.
    let Some((cuda, path)) = drivers::versions()
        .into_iter()
        .find_map(|(cuda, _)| Some((cuda, drivers::path(cuda)?)))
    else {
        return skip(
            "override against a driver of the system",
            "no driver was fetched",
        );
    };
    let folder = path.parent().unwrap().to_str().unwrap();
    let system = drivers::ask(program(), None, &[("LD_LIBRARY_PATH", folder)]).unwrap();
    assert_eq!(system.version, *cuda, "the test's own premise");

    let variables = [
        ("LD_LIBRARY_PATH", folder),
        (DRIVER_VARIABLE, "/nowhere/libcuda.so.1"),
    ];
    let report = drivers::ask(program(), None, &variables).unwrap();
    assert_eq!(report.error_kind.as_deref(), Some("DriverUnloadable"));
    let error = report.error.unwrap();
    assert!(error.contains("/nowhere/libcuda.so.1"), "{error}");
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn what_is_no_library_cannot_be_loaded_and_says_why() {
    let text = scratch("text");
    fs::write(&text, "not a library").unwrap();
    let empty = scratch("empty");
    fs::write(&empty, "").unwrap();
    let folder = scratch("folder");
    fs::create_dir_all(&folder).unwrap();
    let missing = scratch("missing");
    for path in [text, empty, folder, missing] {
        let report = ask(&path);
        assert_eq!(
            report.error_kind.as_deref(),
            Some("DriverUnloadable"),
            "{path:?}"
        );
        let error = report.error.unwrap();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_file_without_read_permission_cannot_be_loaded() {
    let Some(library) = small_driver("unreadable", &[]) else {
        return;
    };
    fs::set_permissions(&library, fs::Permissions::from_mode(0o000)).unwrap();
    let may_read = fs::File::open(&library).is_ok();
    let report = ask(&library);
    fs::set_permissions(&library, fs::Permissions::from_mode(0o644)).unwrap();
    if may_read {
        return note("unreadable driver file: this user (root) may read everything");
    }
    assert_eq!(report.error_kind.as_deref(), Some("DriverUnloadable"));
    let error = report.error.unwrap();
    assert!(error.contains("Permission denied"), "{error}");
}

#[test]
fn a_library_that_is_something_else_is_no_driver() {
    // The C library is there wherever this test can run.
    let report = ask("libc.so.6");
    assert_eq!(report.error_kind.as_deref(), Some("NotACudaDriver"));
    assert!(report.error.unwrap().contains("cuDriverGetVersion"));
}

#[test]
fn a_driver_without_its_version_is_no_driver() {
    let Some(library) = small_driver("no-version", &["RESOLVER", "WITHOUT_VERSION"]) else {
        return;
    };
    let report = ask(library);
    assert_eq!(report.error_kind.as_deref(), Some("NotACudaDriver"));
}

/// What the environment and a program can name that no file can be.
#[test]
fn nothing_and_a_folder_are_no_driver() {
    // An empty variable is as one that is not set: the system's driver is looked for.
    let system = drivers::ask(program(), None, &[]).unwrap();
    let empty = drivers::ask(program(), None, &[(DRIVER_VARIABLE, "")]).unwrap();
    assert_eq!(empty.error_kind, system.error_kind);
    let named = drivers::ask(program(), Some("".as_ref()), &[]).unwrap();
    assert_eq!(named.error_kind.as_deref(), Some("InvalidSpec"));
    for folder in [".", "..", "/", "/usr/lib"] {
        let report = drivers::ask(program(), None, &[(DRIVER_VARIABLE, folder)]).unwrap();
        assert_eq!(
            report.error_kind.as_deref(),
            Some("DriverUnloadable"),
            "{folder}"
        );
        let error = report.error.unwrap();
        assert!(error.contains(folder), "{error}");
    }
}

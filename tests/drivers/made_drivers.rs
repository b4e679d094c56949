//! Drivers made for a test: small ones, and a real one that lacks a symbol.

use std::{fs, process::Command};

use cuda_green_sys::{CudaVersion, DRIVER_VARIABLE, ENTRY_POINTS};
use driver_matrix::{
    drivers::{self, Loads, Missing},
    skip::skip,
};

use crate::*;

const SMALL_DRIVER: &str = include_str!("small_driver.c");
const ONE_LESS: &str = include_str!("one_less.c");

/// Builds the small driver; `None`, said by name, where there is no C compiler.
pub fn small_driver(name: &str, defines: &[&str]) -> Option<PathBuf> {
    let library = scratch(&format!("lib{name}.so"));
    let source = scratch(&format!("{name}.c"));
    fs::write(&source, SMALL_DRIVER).unwrap();
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .args(defines.iter().map(|define| format!("-D{define}")))
        .arg(&source)
        .output();
    match output {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            skip(&format!("small driver {name}"), &format!("cc: {error}"));
            None
        }
    }
}

#[test]
fn many_threads_load_the_library_once_and_share_one_driver() {
    let Some(library) = small_driver("counted", &[]) else {
        return;
    };
    let output = Command::new(program())
        .arg("load")
        .env(DRIVER_VARIABLE, &library)
        .output()
        .unwrap();
    let loads: Loads = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(loads.threads, 32);
    assert!(
        loads.api_errors.is_empty() && loads.driver_errors.is_empty(),
        "{loads:?}"
    );
    assert_eq!(loads.drivers, 1, "`Driver::load` gave several drivers");
    assert_eq!(loads.tables.len(), 1, "{:?}", loads.tables);
    // The library itself counts: it began once, and was asked for its version by the one driver and
    // by each `Api::load`.
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("began").count(), 1);
    assert_eq!(said.matches("asked").count(), 1 + loads.threads);
}

/// What a process that loads this driver many times says of it, and how often the library began.
fn load_many_times(library: &Path) -> (Loads, usize) {
    let output = Command::new(program())
        .arg("load")
        .env(DRIVER_VARIABLE, library)
        .output()
        .unwrap();
    // One that crashed was ended by a signal.
    assert!(output.status.success(), "{library:?}: {output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let loads = serde_json::from_slice(&output.stdout).unwrap();
    (loads, said.matches("began").count())
}

/// A library whose threads run on must not be unloaded from under them, whatever it is refused for.
#[test]
fn a_library_that_is_refused_stays_loaded() {
    for (name, defines, kind) in [
        (
            "refused-stub",
            &["ANSWER=34", "THREAD"][..],
            "VersionUnknown",
        ),
        (
            "refused-zero",
            &["VERSION=0", "THREAD"],
            "VersionImpossible",
        ),
        (
            "refused-other",
            &["RESOLVER", "WITHOUT_VERSION"],
            "NotACudaDriver",
        ),
    ] {
        let Some(library) = small_driver(name, defines) else {
            return;
        };
        let (loads, began) = load_many_times(&library);
        assert_eq!(loads.threads, 32, "{name}");
        let kinds = [&loads.api_errors, &loads.driver_errors];
        assert_eq!(kinds, [&[kind.to_owned()].into(); 2], "{name}");
        assert_eq!(began, 1, "{name} was unloaded and loaded again");
    }
}

#[test]
fn a_stub_and_an_impossible_version_are_told_with_the_library_s_path() {
    for (name, defines, kind, said) in [
        (
            "stub",
            "ANSWER=34",
            "VersionUnknown",
            "CUDA_ERROR_STUB_LIBRARY (34)",
        ),
        (
            "zero",
            "VERSION=0",
            "VersionImpossible",
            "it reports the version 0 (",
        ),
        (
            "negative",
            "VERSION=-1",
            "VersionImpossible",
            "it reports the version -1 (",
        ),
    ] {
        let Some(library) = small_driver(name, &[defines]) else {
            return;
        };
        // By its path, and by a name that the system's loader looks for in a folder.
        let (folder, file) = (library.parent().unwrap(), library.file_name().unwrap());
        let folder = [("LD_LIBRARY_PATH", folder.to_str().unwrap())];
        let named = ask(&library);
        let found = drivers::ask(program(), Some(file), &folder).unwrap();
        for report in [named, found] {
            assert_eq!(report.error_kind.as_deref(), Some(kind), "{name}");
            let error = report.error.unwrap();
            assert!(error.starts_with(library.to_str().unwrap()), "{error}");
            assert!(error.contains(said), "{error}");
        }
    }
}

#[test]
fn symbols_taken_away_are_absent_whichever_way_the_driver_resolves() {
    for (name, defines) in [("by-symbol", &[][..]), ("by-resolver", &["RESOLVER"][..])] {
        let Some(library) = small_driver(name, defines) else {
            return;
        };
        let report = ask(&library);
        assert_eq!(report.version, "12.4", "{name}: {:?}", report.error);
        assert_eq!(report.init, Some(NO_DEVICE));
        let present: Vec<_> = ENTRY_POINTS
            .iter()
            .map(|entry| entry.name())
            .filter(|symbol| !report.absent.contains_key(*symbol))
            .collect();
        assert_eq!(
            present,
            ["cuInit", "cuDriverGetVersion", "cuGreenCtxCreate"],
            "{name}"
        );
        // 2 is what a driver answers for an ABI that it is too old for.
        let destroy = if name == "by-resolver" {
            Missing::OlderAbi
        } else {
            Missing::NotFound
        };
        assert_eq!(report.absent["cuGreenCtxDestroy"], destroy, "{name}");
        assert_eq!(
            report.absent["cuCtxFromGreenCtx"],
            Missing::NotFound,
            "{name}"
        );
        // The version has it, so the library is named that hides it.
        let said = &report.calls["cuDeviceGetDevResource"];
        let hides = format!(
            "CUDA 12.4 has cuDeviceGetDevResource (since 12.4), but {} does not provide it: it stands in front",
            library.display()
        );
        assert!(said.starts_with(&hides), "{said}");
        let newer = &report.calls["cuGreenCtxGetId"];
        assert_eq!(
            newer,
            "cuGreenCtxGetId needs a driver of CUDA 13.0 or later; this one speaks CUDA 12.4"
        );
    }
}

#[test]
fn a_real_driver_with_one_symbol_taken_away_lacks_just_that_one() {
    let Some(real) = drivers::path("12.4").filter(|_| drivers::CAN_BE_LOADED) else {
        return skip("one symbol taken away", "driver 550 (12.4) was not fetched");
    };
    // The real driver is linked to it, so all symbols are found through it.
    let (library, source) = (scratch("libone-less.so"), scratch("one-less.c"));
    fs::write(&source, ONE_LESS).unwrap();
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-o"])
        .args([&library, &source, &real])
        .arg(format!("-DREAL=\"{}\"", real.display()))
        .arg(format!("-Wl,-rpath,{}", real.parent().unwrap().display()))
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return skip("one symbol taken away", &format!("cc: {error}")),
    }
    let report = ask(&library);
    assert_eq!(report.error, None);
    for entry in ENTRY_POINTS {
        let missing = match entry.name() {
            "cuGreenCtxCreate" => Some(Missing::NotFound),
            _ => expected(CudaVersion::new(12, 4), entry),
        };
        assert_eq!(
            report.absent.get(entry.name()).copied(),
            missing,
            "{}",
            entry.name()
        );
    }
    // The very library that stands in front, not the driver behind it.
    let said = &report.calls["cuGreenCtxCreate"];
    let hides = format!(
        "CUDA 12.4 has cuGreenCtxCreate (since 12.4), but {} does not provide it",
        library.display()
    );
    assert!(said.starts_with(&hides), "{said}");
}

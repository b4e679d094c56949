//! Proves that loading is right on every real driver, and a clear error on everything that is none.
//!
//! Every library is loaded in a process of its own, through this package's `report` command. Nothing
//! here needs a GPU, and all of it holds on a machine that has one.

#![cfg(unix)]
// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use cuda_green_sys::{CudaVersion, DRIVER_VARIABLE, ENTRY_POINTS, EntryPoint};
use driver_matrix::{
    drivers::{self, Loads, Missing, Report},
    headers::version,
    skip::{note, skip},
};

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: u32 = 100;

/// A library that answers like a driver of 12.4, except for the symbols whose macros are defined.
const SMALL_DRIVER: &str = r#"
#include <string.h>
#include <stdio.h>
__attribute__((constructor)) static void begin(void) { fputs("began\n", stderr); }
int cuDriverGetVersion(int *version) { fputs("asked\n", stderr); *version = 12040; return 0; }
int cuInit(unsigned flags) { return flags ? 1 : 100; }
int cuGreenCtxCreate(void) { return 0; }
#ifdef RESOLVER
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags, unsigned *status) {
    *address = 0;
    *status = 1;
    if (!strcmp(name, "cuInit")) *address = (void *)cuInit;
    if (!strcmp(name, "cuGreenCtxCreate")) *address = (void *)cuGreenCtxCreate;
    #ifndef WITHOUT_VERSION
    if (!strcmp(name, "cuDriverGetVersion")) *address = (void *)cuDriverGetVersion;
    #endif
    if (!strcmp(name, "cuGreenCtxDestroy")) { *status = 2; return 0; }
    if (*address) { *status = 0; return 0; }
    return 500;
}
#endif
"#;

/// A library that is the driver `REAL` but for one entry point.
const ONE_LESS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
typedef int (*resolver)(const char *, void **, int, unsigned long long, unsigned *);
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long long flags, unsigned *status) {
    resolver real = (resolver)dlsym(dlopen(REAL, RTLD_NOW), "cuGetProcAddress_v2");
    if (strcmp(name, "cuGreenCtxCreate")) return real(name, address, version, flags, status);
    *address = 0;
    *status = 1;
    return 500;
}
"#;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_driver-matrix"))
}

fn ask(driver: impl AsRef<OsStr>) -> Report {
    drivers::ask(program(), Some(driver.as_ref()), &[]).unwrap()
}

/// Calls `check` with the report of each real driver that is there.
fn each(test: &str, check: impl Fn(CudaVersion, &Report)) {
    each_path(test, |cuda, path| check(cuda, &ask(path)));
}

/// Calls `check` with the path of each real driver that is there and can be loaded.
fn each_path(test: &str, check: impl Fn(CudaVersion, &Path)) {
    for (cuda, release) in drivers::versions() {
        let what = format!("{test} with driver {release} ({cuda})");
        match drivers::path(cuda) {
            None => skip(&what, "not fetched: run `cargo xtask fetch`"),
            Some(_) if !drivers::CAN_BE_LOADED => {
                note(&format!("{what}: it is built for x86-64 Linux"));
            }
            Some(path) => check(version(cuda), &path),
        }
    }
}

/// A file of its own for one test.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drivers");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// Builds the small driver; `None`, said by name, where there is no C compiler.
fn small_driver(name: &str, defines: &[&str]) -> Option<PathBuf> {
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

/// What a driver of this version must say of one entry point.
fn expected(driver: CudaVersion, entry: &EntryPoint) -> Option<Missing> {
    if entry.since <= driver {
        None
    } else if entry.name() == "cuStreamGetCtx_v2" {
        // All of these drivers have the function of 9.2, with fewer parameters. 12.2 and 12.4 even
        // give its address when asked for the newer one.
        Some(Missing::OlderAbi)
    } else {
        Some(Missing::NotFound)
    }
}

#[test]
fn each_driver_loads_and_tells_its_version() {
    each("loading", |cuda, report| {
        assert_eq!(report.error, None);
        assert_eq!(report.version, cuda.to_string());
    });
}

#[test]
fn each_driver_has_exactly_the_entry_points_of_its_version() {
    each("entry points", |cuda, report| {
        for entry in ENTRY_POINTS {
            assert_eq!(
                report.absent.get(entry.name()).copied(),
                expected(cuda, entry),
                "{} (since {}) on a driver of {cuda}",
                entry.name(),
                entry.since
            );
        }
    });
}

#[test]
fn each_driver_resolves_the_very_symbol_and_only_from_its_version_on() {
    each("resolving", |cuda, report| {
        assert_eq!(
            report.other_symbol, [""; 0],
            "{cuda}: not the exported symbol"
        );
        assert_eq!(report.earlier, [""; 0], "{cuda}: there before `since`");
    });
}

#[test]
fn each_driver_says_that_there_is_no_device() {
    let gpu = Path::new("/dev/nvidiactl").exists();
    each("cuInit", |cuda, report| {
        let init = report.init.unwrap();
        // With a GPU the answer is its kernel driver's: success, or that the two do not fit.
        assert!(init == NO_DEVICE || gpu, "{cuda}: cuInit answered {init}");
    });
}

#[test]
fn the_safe_crate_says_that_there_is_no_gpu_and_within_a_tenth_of_a_second() {
    let gpu = Path::new("/dev/nvidiactl").exists();
    each_path("no GPU", |cuda, path| {
        let reports = [(); 5].map(|()| ask(path).safe);
        for safe in &reports {
            let Some([kind, text]) = &safe.error else {
                assert!(gpu, "{cuda}: {safe:?}");
                return;
            };
            // With a GPU the two halves of the driver do not fit, and that is the answer.
            assert!(kind == "NoGpu" || gpu, "{cuda}: {text}");
            assert!(text.contains(&cuda.to_string()) || gpu, "{text}");
        }
        // The quickest of some, because the machine may be busy with other tests.
        let fastest = reports.iter().map(|safe| safe.milliseconds);
        let fastest = fastest.fold(f64::INFINITY, f64::min);
        assert!(fastest < 100.0 || gpu, "{cuda}: {fastest} ms");
    });
}

/// By hand, from the headers, beside the function that derives it.
#[test]
fn each_driver_s_capabilities_are_those_of_its_version() {
    each("capabilities", |cuda, report| {
        let expected: &[&str] = match (cuda.major(), cuda.minor()) {
            (12, 4) => &["green_contexts"],
            (12, 5) => &["direct_streams", "green_contexts", "merge", "split_flags"],
            _ => &[],
        };
        let can = report.safe.capabilities.iter();
        let can: Vec<_> = can
            .filter(|(_, can)| **can)
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(can, expected, "{cuda}");
        // What the version promises, the driver has.
        for (capability, symbol) in [
            ("green_contexts", "cuGreenCtxCreate"),
            ("direct_streams", "cuGreenCtxStreamCreate"),
            ("context_ids", "cuGreenCtxGetId"),
            ("structured_split", "cuDevSmResourceSplit"),
            ("workqueues", "cuStreamGetDevResource"),
        ] {
            let present = report.present.iter().any(|name| name == symbol);
            assert_eq!(
                report.safe.capabilities[capability], present,
                "{symbol} on {cuda}"
            );
        }
    });
}

#[test]
fn calling_what_a_driver_lacks_names_it_and_both_versions() {
    each("absent entry points", |cuda, report| {
        for (symbol, said) in &report.calls {
            let entry = ENTRY_POINTS
                .iter()
                .find(|entry| entry.name() == symbol)
                .unwrap();
            let since = entry.since;
            let start = format!(
                "{symbol} needs a driver of CUDA {since} or later; this one speaks CUDA {cuda}"
            );
            assert!(said.starts_with(&start), "{said}");
            assert!(entry.since > cuda, "{said}");
        }
        assert!(report.calls.contains_key("cuStreamGetDevResource"));
    });
}

#[test]
fn the_system_s_driver_has_exactly_the_entry_points_of_its_version() {
    let report = drivers::ask(program(), None, &[]).unwrap();
    if report.error_kind.as_deref() == Some("DriverNotFound") {
        assert!(
            std::env::var_os("CUDA_GREEN_REQUIRE_GPU").is_none_or(|value| value != "1"),
            "CUDA_GREEN_REQUIRE_GPU=1, and {:?}",
            report.error
        );
        return note("the system's driver: there is none on this machine");
    }
    assert_eq!(report.error, None);
    let cuda = version(&report.version);
    for entry in ENTRY_POINTS {
        let absent = report.absent.contains_key(entry.name());
        assert_eq!(absent, entry.since > cuda, "{} on {cuda}", entry.name());
    }
    assert_eq!(
        report.other_symbol, [""; 0],
        "{cuda}: not the exported symbol"
    );
    assert_eq!(report.earlier, [""; 0], "{cuda}: there before `since`");
}

/// What was seen on a GPU of a version that cannot be fetched: `cargo xtask gpu-bundle` writes the file.
#[test]
fn the_driver_in_the_evidence_has_exactly_the_entry_points_of_its_version() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("evidence/driver.json");
    let Ok(text) = fs::read_to_string(path) else {
        return note("evidence/driver.json: there is none yet");
    };
    let evidence: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(evidence["simulated"], false);
    let report: Report = serde_json::from_value(evidence["figures"].clone()).unwrap();
    assert_eq!(report.error, None);
    assert_eq!(report.version, evidence["cuda_version"].as_str().unwrap());
    let cuda = version(&report.version);
    let mut unseen = Vec::new();
    for entry in ENTRY_POINTS {
        let [present, absent] = [
            report.present.iter().any(|name| name == entry.name()),
            report.absent.contains_key(entry.name()),
        ];
        if !present && !absent {
            unseen.push(entry.name());
            continue;
        }
        assert_eq!(present, entry.since <= cuda, "{} on {cuda}", entry.name());
        assert_ne!(present, absent, "{}", entry.name());
    }
    assert_eq!(report.other_symbol, [""; 0], "not the exported symbol");
    // Its typedef bears 12.9, and that is how the driver answers; the headers declare it from 13.0 on.
    assert_eq!(report.earlier, ["cuGreenCtxGetId"], "there before `since`");
    assert_eq!(report.init, Some(0));
    if !unseen.is_empty() {
        note(&format!(
            "evidence/driver.json is older than {}",
            unseen.join(", ")
        ));
    }
}

#[test]
fn the_variable_names_the_driver() {
    for (cuda, release) in drivers::versions() {
        let Some(path) = drivers::path(cuda) else {
            let what = format!("{DRIVER_VARIABLE} with driver {release} ({cuda})");
            skip(&what, "not fetched: run `cargo xtask fetch`");
            continue;
        };
        let path = path.to_str().unwrap();
        let report = drivers::ask(program(), None, &[(DRIVER_VARIABLE, path)]).unwrap();
        assert_eq!(report.version, cuda);
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

#[test]
fn each_real_driver_can_be_loaded_by_many_threads_at_once() {
    each_path("many threads", |cuda, path| {
        let mut command = Command::new(program());
        let output = command.arg("load").env(DRIVER_VARIABLE, path).output();
        let loads: Loads = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        assert_eq!((loads.threads, loads.drivers), (32, 1), "{loads:?}");
        assert_eq!(loads.tables.len(), 1, "{:?}", loads.tables);
        let version = format!("major: {}, minor: {}", cuda.major(), cuda.minor());
        assert!(loads.tables.iter().all(|table| table.contains(&version)));
    });
}

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
fn symbols_taken_away_are_absent_whichever_way_the_driver_resolves() {
    for (name, defines) in [("by-symbol", &[][..]), ("by-resolver", &["RESOLVER"][..])] {
        let Some(library) = small_driver(name, defines) else {
            return;
        };
        let report = ask(library);
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
    let report = ask(library);
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
    assert_eq!(
        report.calls["cuGreenCtxCreate"],
        "cuGreenCtxCreate needs a driver of CUDA 12.4 or later; this one speaks CUDA 12.4 and lacks it \
         all the same"
    );
}

#[test]
fn a_driver_without_its_version_is_no_driver() {
    let Some(library) = small_driver("no-version", &["RESOLVER", "WITHOUT_VERSION"]) else {
        return;
    };
    let report = ask(library);
    assert_eq!(report.error_kind.as_deref(), Some("NotACudaDriver"));
}

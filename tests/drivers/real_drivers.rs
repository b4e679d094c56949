//! Every real driver that can be had: version, entry points, words.

use std::{fs, path::Path, process::Command};

use cuda_green_sys::{CudaVersion, DRIVER_VARIABLE, ENTRY_POINTS};
use driver_matrix::{
    drivers::{self, Loads, Report},
    headers::version,
    skip::{note, skip},
};

use crate::*;

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

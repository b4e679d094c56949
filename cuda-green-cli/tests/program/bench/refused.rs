//! Errors of benchmarks: of memory, of the driver, of a file. Nothing panics.

use std::fs;

use serde_json::Value;

use super::{bench, file, stdout};

/// Runs a benchmark that must fail without other output, and returns its error without line breaks.
fn refused(args: &[&str], variables: &[(&str, &str)], code: i32) -> String {
    let output = bench(args, variables);
    let told = words(output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}, {variables:?}: {told}"
    );
    if args.contains(&"--json") {
        assert!(told.is_empty(), "{args:?}, {variables:?}: {told}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        return report["error"]["message"].as_str().unwrap().to_owned();
    }
    assert!(output.stdout.is_empty(), "{args:?}, {variables:?}: {told}");
    told.strip_prefix("error: ").unwrap().to_owned()
}

/// Returns a text without its line breaks.
fn words(text: Vec<u8>) -> String {
    let text = String::from_utf8(text).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A pool that the driver does not take back is lost memory: the figures and the exit code show it.
#[test]
fn a_soak_that_loses_memory_fails_with_its_figures() {
    let soak = ["alloc", "--soak", "0.1", "--threads", "2", "--json"];
    let output = bench(
        &[&soak[..], &["--driver", "sim:h200@13.0"]].concat(),
        &[("CUDA_GREEN_SIM_FAULTS", "cuMemPoolDestroy=INVALID_VALUE")],
    );
    assert_eq!(output.status.code(), Some(1));
    let told = words(output.stderr);
    assert!(told.starts_with("error: memory was lost: "), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = &report["figures"];
    assert_eq!(figures["memory_was_lost"], true);
    assert_ne!(figures["driver_before"], figures["driver_after"]);
}

/// If a driver lacks what is measured, the figures would be of something else.
#[test]
fn a_driver_without_partitions_is_told() {
    for (what, driver, reason) in [
        ("activate", "sim:t4@11.4", "12.4"),
        ("rebalance", "sim:t4@11.4", "12.4"),
        ("rebalance", "sim:h100@12.4", "12.5"),
    ] {
        let told = refused(&[what, "--quick", "--json", "--driver", driver], &[], 1);
        assert!(told.contains(reason), "{told}");
    }
    for driver in ["sim:t4@11.4", "sim:h100@12.4", "sim:rtx5090@13.5"] {
        stdout(&[
            "alloc",
            "--soak",
            "0.1",
            "--threads",
            "1",
            "--driver",
            driver,
        ]);
    }
    stdout(&["activate", "--quick", "--driver", "sim:h100@12.4"]);
}

/// Each driver call of a benchmark fails in turn: the error is reported, and nothing panics or hangs.
#[test]
fn what_the_driver_refuses_is_told() {
    for (args, calls) in [
        (
            &["activate", "--quick"][..],
            &[
                "cuCtxPushCurrent_v2",
                "cuCtxGetCurrent",
                "cuLaunchKernel",
                "cuEventRecord",
                "cuGreenCtxCreate",
                "cuGreenCtxDestroy",
                "cuDevSmResourceSplitByCount",
            ][..],
        ),
        (
            &["alloc", "--quick"],
            &[
                "cuMemPoolCreate",
                "cuMemPoolSetAttribute",
                "cuStreamCreateWithPriority",
                "cuMemAllocFromPoolAsync",
                "cuMemFreeAsync",
                "cuMemAlloc_v2",
                "cuMemPoolTrimTo",
            ],
        ),
        (
            &["rebalance", "--quick"],
            &["cuGreenCtxCreate", "cuLaunchKernel", "cuEventRecord"],
        ),
    ] {
        for call in calls {
            let faults = format!("{call}=INVALID_VALUE");
            let args = [args, &["--driver", "sim:h200@13.0", "--json"]].concat();
            let told = refused(&args, &[("CUDA_GREEN_SIM_FAULTS", &faults)], 1);
            assert!(told.contains("INVALID_VALUE"), "{call}: {told}");
        }
    }
}

#[test]
fn a_file_without_figures_is_told() {
    let svg = file("bench.none.svg");
    let svg = svg.to_str().unwrap();
    let told = |name: &str, text: &str| {
        let from = file(name);
        fs::write(&from, text).unwrap();
        refused(
            &["alloc", "--from", from.to_str().unwrap(), "--svg", svg],
            &[],
            1,
        )
    };
    for (name, text, reason) in [
        ("bench.junk.json", "\u{0}\u{ff}{", "line 1 column 1"),
        ("bench.empty.json", "", "EOF"),
        ("bench.other.json", "{}", "missing field"),
        (
            "bench.isolation.json",
            r#"{"device": "x", "simulated": false, "command": "y", "figures": []}"#,
            "not the output of `bench alloc --json`",
        ),
        (
            "bench.null.json",
            r#"{"device": "x", "simulated": false, "command": "y", "figures": {"pairs": [], "clock": null}}"#,
            "invalid type: null",
        ),
    ] {
        let told = told(name, text);
        assert!(told.contains(name) && told.contains(reason), "{told}");
    }
    let missing = refused(&["alloc", "--from", "/nowhere.json", "--svg", svg], &[], 1);
    assert!(missing.contains("/nowhere.json"), "{missing}");
    assert!(!fs::exists(svg).unwrap());
}

/// The error comes before the measurement, which takes minutes on a GPU.
#[test]
fn a_picture_that_cannot_be_written_is_told_at_once() {
    let driver = ["--driver", "sim:h200@13.0"];
    let folder = env!("CARGO_TARGET_TMPDIR");
    for what in ["activate", "alloc", "isolation", "rebalance"] {
        for (path, said) in [
            ("/nowhere/at.svg", "No such file"),
            (folder, "Is a directory"),
        ] {
            for json in [&[] as &[&str], &["--json"]] {
                // Whole runs, which take seconds on a simulated driver too.
                let args = [&[what, "--svg", path], &driver[..], json].concat();
                let told = refused(&args, &[], 1);
                assert!(told.contains(path) && told.contains(said), "{told}");
            }
        }
    }
}

#[test]
fn a_measurement_that_fails_leaves_the_picture_of_before() {
    let svg = file("bench.before.svg");
    fs::write(&svg, "before").unwrap();
    let new = file("bench.failed.svg");
    let fault = [("CUDA_GREEN_SIM_FAULTS", "cuLaunchKernel=INVALID_VALUE")];
    for path in [&svg, &new] {
        let args = [
            "rebalance",
            "--quick",
            "--json",
            "--driver",
            "sim:h200@13.0",
            "--svg",
        ];
        refused(&[&args[..], &[path.to_str().unwrap()]].concat(), &fault, 1);
    }
    assert_eq!(fs::read_to_string(svg).unwrap(), "before");
    assert!(!fs::exists(new).unwrap());
}

/// A full disk shows only at the end.
#[test]
#[cfg(target_os = "linux")]
fn a_picture_that_is_lost_in_the_end_costs_no_figures() {
    let args = [
        "rebalance",
        "--quick",
        "--json",
        "--driver",
        "sim:h200@13.0",
    ];
    let output = bench(&[&args[..], &["--svg", "/dev/full"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = words(output.stderr);
    assert!(told.contains("/dev/full: No space left"), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["figures"].is_object());
}

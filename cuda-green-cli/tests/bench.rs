//! Every benchmark on simulated drivers: as text, as JSON, as a picture, and drawn again from its JSON; and what
//! is said where something is wrong. No figure is looked at, as those of a simulated driver mean nothing.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

const DRAWN: [&str; 4] = ["activate", "alloc", "isolation", "rebalance"];

fn bench(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_cuda-green"))
        .arg("bench")
        .args(args)
        .env_remove("CUDA_GREEN_COMMIT")
        .env("CUDA_GREEN_DRIVER", "system")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("panicked"), "{args:?}: {told}");
    output
}

/// What it prints where all is well; a terminal is not there, so no progress bar either.
fn stdout(args: &[&str]) -> String {
    let output = bench(args, &[]);
    assert!(output.status.success(), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What it says where it refuses, with nothing on the standard output.
fn refused(args: &[&str], variables: &[(&str, &str)], code: i32) -> String {
    let output = bench(args, variables);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}, {variables:?}: {told}"
    );
    assert!(output.stdout.is_empty(), "{args:?}, {variables:?}: {told}");
    told
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn as_text_in_80_columns() {
    for what in ["activate", "alloc", "isolation", "rebalance", "startup"] {
        let text = stdout(&[what, "--quick", "--driver", "sim:h200@13.0"]);
        let caveat = "SIMULATED: these figures mean nothing\n";
        assert!(text.contains(caveat), "{text}");
        let wide = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{what}");
        assert!(!text.contains("NaN") && !text.contains("inf "), "{text}");
    }
}

#[test]
fn as_json_and_as_a_picture_and_the_same_picture_again() {
    for what in DRAWN {
        let [drawn, again, json] =
            ["svg", "again.svg", "json"].map(|end| file(&format!("bench.{what}.{end}")));
        let text = stdout(&[
            what,
            "--quick",
            "--json",
            "--driver",
            "sim:h200@13.1",
            "--svg",
            drawn.to_str().unwrap(),
        ]);
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["simulated"], true);
        assert_eq!(report["caveat"], "SIMULATED: these figures mean nothing");
        let command = format!("cuda-green bench {what} --quick --json");
        assert_eq!(report["command"], command);
        no_number_is_missing(&report["figures"]);
        fs::write(&json, text).unwrap();
        let [json, again] = [&json, &again].map(|path| path.to_str().unwrap());
        let told = stdout(&[what, "--from", json, "--svg", again]);
        assert_eq!(told, format!("wrote {again}\n"));
        let [drawn, again] =
            [drawn.to_str().unwrap(), again].map(|path| fs::read_to_string(path).unwrap());
        assert!(drawn == again, "{what} is drawn differently from its JSON");
        assert!(drawn.contains("SIMULATED: these figures mean nothing"));
        assert!(drawn.matches("<polyline").count() > 2);
    }
}

/// A figure that is no number is null in JSON.
fn no_number_is_missing(figures: &Value) {
    match figures {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_number = name.ends_with("_ns") || name.ends_with("_us") || name == "ratio";
                assert!(!is_number || !value.is_null(), "{name} is null");
                no_number_is_missing(value);
            }
        }
        Value::Array(values) => values.iter().for_each(no_number_is_missing),
        _ => {}
    }
}

#[test]
fn startup_measures_what_a_simulated_driver_has() {
    let text = stdout(&["startup", "--quick", "--json", "--driver", "sim:a100@12.4"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let figures = &report["figures"];
    assert!(figures["load"].is_null());
    let check = &figures["check_availability"];
    assert!(check["first_call_ns"].as_f64().unwrap() > 0.0);
    assert!(check["no_driver_ns"].as_f64().unwrap() > 0.0);
    assert!(check["beyond_cu_init_ns"].is_null());
    assert_eq!(report["caveat"], "SIMULATED: these figures mean nothing");
}

#[test]
fn a_soak_alone_tells_that_nothing_was_lost() {
    let soak = [
        "alloc",
        "--soak",
        "0.2",
        "--threads",
        "3",
        "--driver",
        "sim:l40s@12.8",
    ];
    let text = stdout(&[&soak[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        report["command"],
        "cuda-green bench alloc --soak 0.2 --threads 3 --json"
    );
    let figures = &report["figures"];
    assert_eq!(figures["threads"], 3);
    assert_eq!(figures["memory_was_lost"], false);
    assert_eq!(figures["driver_before"], figures["driver_after"]);
    assert!(figures["operations"].as_u64().unwrap() > 0);
    assert_eq!(figures["pool"]["used"], 0);
    assert!(stdout(&soak).contains("SIMULATED: these figures mean nothing"));
}

/// A pool that the driver does not take back is memory that is lost: the figures tell it, and the exit code.
#[test]
fn a_soak_that_loses_memory_fails_with_its_figures() {
    let soak = ["alloc", "--soak", "0.1", "--threads", "2", "--json"];
    let output = bench(
        &[&soak[..], &["--driver", "sim:h200@13.0"]].concat(),
        &[("CUDA_GREEN_SIM_FAULTS", "cuMemPoolDestroy=INVALID_VALUE")],
    );
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("error: memory was lost: "), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = &report["figures"];
    assert_eq!(figures["memory_was_lost"], true);
    assert_ne!(figures["driver_before"], figures["driver_after"]);
}

/// Where a driver lacks what is measured, the figures would be those of something else.
#[test]
fn a_driver_without_partitions_is_told() {
    for (what, driver, reason) in [
        ("activate", "sim:t4@11.4", "12.4"),
        ("rebalance", "sim:t4@11.4", "12.4"),
        ("rebalance", "sim:h100@12.4", "12.5"),
    ] {
        let output = bench(&[what, "--quick", "--json", "--driver", driver], &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.starts_with("error: ") && told.contains(reason),
            "{told}"
        );
        assert!(output.stdout.is_empty());
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

/// Each call of the driver that a benchmark makes fails in turn: that is told, and nothing panics or hangs.
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
            assert!(told.starts_with("error: "), "{call}: {told}");
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
            "figures that `bench alloc --json` gave",
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

#[test]
fn a_picture_that_cannot_be_written_costs_no_figures() {
    let args = [
        "rebalance",
        "--quick",
        "--json",
        "--driver",
        "sim:h200@13.0",
    ];
    let output = bench(&[&args[..], &["--svg", "/nowhere/at.svg"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("/nowhere/at.svg"), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["figures"].is_object());
}

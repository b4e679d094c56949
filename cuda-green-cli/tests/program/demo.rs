//! `cuda-green demo` where no driver is named, on devices too small to divide, and as JSON.

use std::{fs, path::PathBuf};

use crate::common::{program, run, text};
use serde_json::Value;

fn json(arguments: &[&str]) -> Value {
    let output = run(&[&["demo", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the p99 of all four set-ups.
fn p99(rows: &Value) -> [f64; 4] {
    let rows = rows.as_array().unwrap().iter();
    let all: Vec<f64> = rows.map(|row| row["p99_us"].as_f64().unwrap()).collect();
    all.try_into().unwrap()
}

/// Without a GPU, the demo runs on a simulated one, and its first line says so.
#[test]
fn without_a_gpu_it_runs_on_a_simulated_one() {
    // On a machine with a GPU, this list hides it.
    let output = program(&["demo"])
        .env("CUDA_VISIBLE_DEVICES", "-1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    let first = said.lines().next().unwrap();
    assert!(first.starts_with("SIMULATED: "), "{said}");
    assert!(first.ends_with(", so a simulated one stands in"), "{said}");
    assert!(said.contains("\nNVIDIA H200: 132 SMs"), "{said}");
    let report = program(&["demo", "--json"])
        .env("CUDA_VISIBLE_DEVICES", "-1")
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["simulated"], true);
    assert_eq!(report["driver"], "sim:h200@13.0");
}

/// A named driver is used, whether it works or not.
#[test]
fn a_driver_that_is_named_is_not_replaced() {
    for (name, driver) in [("CUDA_GREEN_DRIVER", "/nowhere/l.so"), ("OTHER", "")] {
        let mut program = program(&["demo"]);
        if driver.is_empty() {
            program.args(["--driver", "/nowhere/l.so"]);
        }
        let output = program.env(name, driver).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(text(&output.stderr).contains("/nowhere/l.so"), "{output:?}");
    }
}

/// The figures of a simulation are the same in every run, and show what partitions are for.
#[test]
fn partitions_keep_the_latency_in_virtual_time() {
    for driver in [
        "sim:h200@13.0",
        "sim:h100@12.4",
        "sim:rtx5090@13.5",
        "sim:t4@12.5",
    ] {
        let report = json(&["--driver", driver]);
        let caveat = report["caveat"].as_str().unwrap();
        assert!(caveat.starts_with("SIMULATED: "), "{caveat}");
        let p99 = p99(&report["demo"]["latencies"]);
        let [alone, shared, apart, beside] = p99;
        assert!(shared > 20.0 * alone, "{driver}: {p99:?}");
        assert_eq!(apart, beside, "{driver}: {p99:?}");
        assert_eq!(report["demo"]["map"]["shared_sms"], 0);
        assert_eq!(report, json(&["--driver", driver]));
    }
}

/// Bulk embedding delays a query in one context and not in partitions, in virtual time.
#[test]
fn partitions_keep_the_latency_of_a_query_that_is_embedded() {
    for driver in ["sim:h200@13.0", "sim:h100@12.4", "sim:rtx5090@13.5"] {
        let report = json(&["--driver", driver]);
        let p99 = p99(&report["demo"]["embedding"]);
        let [alone, shared, apart, beside] = p99;
        assert!(shared > 2.0 * alone, "{driver}: {p99:?}");
        assert_eq!(apart, beside, "{driver}: {p99:?}");
        assert!(report["demo"]["without_embedding"].is_null());
    }
    let report = json(&["--driver", "sim:t4@12.5"]);
    let why = report["demo"]["without_embedding"].as_str().unwrap();
    assert!(why.contains("7.5") && why.contains("8.0"), "{why}");
    assert!(report["demo"]["embedding"].is_null());
    let report = json(&["--driver", "sim:h200@12.3"]);
    assert_eq!(report["demo"]["embedding"].as_array().unwrap().len(), 2);
}

/// On a device that cannot be divided, the demo says why and shows the other figures.
#[test]
fn without_partitions_it_says_why_and_ends_well() {
    let small = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("demo.small.toml");
    let profile = "cuda_version = \"13.0\"\n[device]\nname = \"small\"\ncompute_capability = \"9.0\"\n\
                   sm_count = 8\nmemory_mib = 4096\nmin_sm_partition_size = 8\nsm_coscheduled_alignment = 8\n\
                   source = \"none\"\n";
    fs::write(&small, profile).unwrap();
    let small = format!("sim:{}", small.display());
    for (driver, reason) in [
        (&*small, "at least"),
        ("sim:h200@12.3", "CUDA 12.4 or later"),
    ] {
        let report = json(&["--driver", driver]);
        let why = report["demo"]["without_partitions"].as_str().unwrap();
        assert!(
            why.starts_with("No partitions here: ") && why.contains(reason),
            "{why}"
        );
        assert!(report["demo"]["map"].is_null());
        assert_eq!(report["demo"]["latencies"].as_array().unwrap().len(), 2);
    }
}

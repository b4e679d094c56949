//! The root's examples, run as a user runs them: `quad_partition`'s counts on every profile, its JSON, its
//! words; what `cudarc_partition` says where it cannot run. (`tests/clients` runs that one.)

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

fn example(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    run("quad_partition", arguments, environment)
}

/// `cargo test` builds the examples beside the tests.
fn run(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    Command::new(path)
        .args(arguments)
        .env_remove("CUDA_GREEN_DRIVER")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn json(driver: &str) -> Value {
    let output = example(&["--json", "--driver", driver], &[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn numbers(report: &Value, field: &str) -> Vec<u64> {
    let contexts = report["contexts"].as_array().unwrap();
    contexts
        .iter()
        .map(|context| context[field].as_u64().unwrap())
        .collect()
}

#[test]
fn every_profile_has_its_counts() {
    for (driver, counts) in [
        ("sim:rtx5090@13.1", [42, 42, 42, 44]),
        ("sim:rtx5090@12.8", [40, 40, 40, 50]),
        ("sim:h200@13.0", [32, 32, 32, 36]),
        ("sim:h200@13.1", [32, 32, 32, 36]),
        ("sim:quad680@13.1", [170, 170, 170, 170]),
        ("sim:a100@12.4", [26, 26, 26, 30]),
    ] {
        let report = json(driver);
        assert_eq!(numbers(&report, "sm_count"), counts, "{driver}");
        assert_eq!(report["mode"], "partitioned");
        assert_eq!(report["reason"], Value::Null);
        assert_eq!(report["disjoint"], true, "{driver}");
        assert_eq!(report["stranded_sms"], 0, "{driver}");
        assert_eq!(report["stranded_reason"], Value::Null, "{driver}");
        assert_eq!(report["allocated_sms"], counts.iter().sum::<u64>());
        for (context, count) in report["contexts"].as_array().unwrap().iter().zip(counts) {
            assert_eq!(
                context["sm_ids"].as_array().unwrap().len() as u64,
                count,
                "{driver}"
            );
        }
    }
}

#[test]
fn an_old_driver_shows_one_context_and_why() {
    let report = json("sim:t4@11.4");
    assert_eq!(report["mode"], "single_context");
    assert!(report["reason"].as_str().unwrap().contains("12.4"));
    assert_eq!(numbers(&report, "sm_count"), [40, 40, 40, 40]);
    assert_eq!(report["disjoint"], false);
    let table = example(&["--driver", "sim:t4@11.4"], &[]);
    assert!(
        String::from_utf8_lossy(&table.stdout).contains("single-context mode, nothing is isolated")
    );
}

#[test]
fn the_json_has_every_field_that_was_promised() {
    let report = json("sim:h200@13.0");
    assert_eq!(report["driver"]["source"], "sim:h200@13.0");
    assert_eq!(report["driver"]["cuda_version"], "13.0");
    assert_eq!(report["driver"]["simulated"], true);
    assert_eq!(report["device"]["name"], "NVIDIA H200");
    assert_eq!(report["device"]["sm_count"], 132);
    assert_eq!(report["device"]["compute_capability"], "9.0");
    let expected = [
        ("Embedding", "Critical", false),
        ("Dream", "Low", true),
        ("Training", "Medium", true),
        ("Reserved", "Medium", true),
    ];
    for (context, (id, priority, preemptible)) in
        report["contexts"].as_array().unwrap().iter().zip(expected)
    {
        assert_eq!(
            (&context["id"], &context["priority"]),
            (&id.into(), &priority.into())
        );
        assert_eq!(context["preemptible"], preemptible);
        assert_eq!(context["memory_limit_bytes"], 8u64 << 30);
        assert_eq!(
            (&context["coscheduled"], &context["max_cluster"]),
            (&8.into(), &8.into())
        );
        assert!(context["requested_sms"].is_u64());
    }
}

#[test]
fn a_simulated_driver_is_never_taken_for_a_gpu() {
    let table = example(&["--driver", "sim:h200@13.0"], &[]);
    let text = String::from_utf8_lossy(&table.stdout);
    assert!(text.lines().next().unwrap().contains("SIMULATED"), "{text}");
    assert!(text.lines().last().unwrap().contains("SIMULATED"), "{text}");
    let by_environment = example(&["--json"], &[("CUDA_GREEN_DRIVER", "sim:a100@12.4")]);
    let report: Value = serde_json::from_slice(&by_environment.stdout).unwrap();
    assert_eq!(report["driver"]["simulated"], true);
}

#[test]
fn without_a_gpu_it_says_so_and_shows_a_simulated_one() {
    if cuda_green::Driver::load().is_ok_and(|driver| driver.device_count().is_ok()) {
        driver_matrix::skip::note("the example without a GPU: this machine has one");
        return;
    }
    let output = example(&["--json"], &[]);
    assert!(output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(words.lines().count(), 1, "{words}");
    assert!(words.contains("no GPU here"), "{words}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["driver"]["source"], "sim:rtx5090@13.1");
    assert_eq!(report["driver"]["simulated"], true);
}

/// What was named and cannot be had is an error; nothing else is shown instead.
#[test]
fn a_driver_that_was_named_must_be_there() {
    for (driver, words) in [
        ("/no/such/libcuda.so.1", "cannot be loaded"),
        ("/etc/passwd", "cannot be loaded"),
        ("sim:gtx480@13.0", "no simulated device is called `gtx480`"),
        ("sim:h200@9.9", "9.9"),
    ] {
        for output in [
            example(&["--driver", driver], &[]),
            example(&[], &[("CUDA_GREEN_DRIVER", driver)]),
        ] {
            assert!(!output.status.success(), "{driver}");
            assert!(output.stdout.is_empty(), "{driver}");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains(words), "{driver}: {error}");
        }
    }
}

/// cudarc loads its driver by itself, and dies where there is none: it is not let near that.
#[test]
fn cudarc_is_told_that_a_simulated_driver_must_be_a_library() {
    let output = run(
        "cudarc_partition",
        &[],
        &[("CUDA_GREEN_DRIVER", "sim:h200@13.0")],
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("libcuda.so.1") && error.contains("cuda-green-sim-driver"),
        "{error}"
    );
}

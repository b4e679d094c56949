//! The examples, run as a user runs them on a machine without a GPU.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::process::{Command, Output};

/// What an example does on a driver. `cargo test` builds the examples beside the tests.
fn run(example: &str, driver: &str) -> Output {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().unwrap().parent().unwrap();
    Command::new(folder.join("examples").join(example))
        .env("CUDA_GREEN_DRIVER", driver)
        .output()
        .unwrap()
}

/// What an example prints on a simulated device.
fn printed(example: &str, driver: &str) -> String {
    let output = run(example, driver);
    assert!(output.status.success(), "{example} on {driver}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // At once, before any figure is read.
    let first = text.lines().next().unwrap();
    assert!(first.contains("SIMULATED"), "{example}: {text}");
    text
}

const DRIVERS: [&str; 3] = ["sim:h200@13.0", "sim:rtx5090@13.1", "sim:a100@12.8"];

/// In virtual time: the partition keeps its latency, and the two other ways do not.
#[test]
fn a_partition_protects_the_latency() {
    for driver in DRIVERS {
        let text = printed("protected_latency", driver);
        let worst = |set_up: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(set_up)).unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            words[words.len() - 4].parse().unwrap()
        };
        let alone = worst("alone");
        assert_eq!(worst("flood in the other partition"), alone, "{text}");
        assert!(worst("flood in the same context") > 10.0 * alone, "{text}");
        assert!(worst("flood left in the primary") > 10.0 * alone, "{text}");
    }
}

#[test]
fn sms_change_hands_under_load() {
    for driver in DRIVERS {
        let text = printed("rebalance_under_load", driver);
        assert!(text.ends_with("all work is done\n"), "{text}");
        let sizes = |hint: &str| {
            let line = text.lines().find(|line| line.starts_with(hint)).unwrap();
            line.split_once(": ").unwrap().1.to_owned()
        };
        assert_ne!(sizes("EmbeddingHeavy"), sizes("Balanced"), "{text}");
        assert_eq!(text.matches(&sizes("Balanced")).count(), 2, "{text}");
    }
}

#[test]
fn models_make_room_for_each_other() {
    for driver in DRIVERS {
        let text = printed("models_in_a_budget", driver);
        assert!(text.contains("refused: too large needs"), "{text}");
        let after = text.split("room made for a large one").nth(1).unwrap();
        for stays in ["large", "model-0 ", "model-1 "] {
            assert!(after.contains(stays), "{stays}: {text}");
        }
        assert!(!after.contains("model-2 "), "{text}");
    }
}

#[test]
fn the_first_program_has_a_quarter() {
    for (driver, sms) in DRIVERS.into_iter().zip([32, 42, 26]) {
        let text = printed("first_program", driver);
        assert!(text.contains(&format!("Embedding: {sms} SMs")), "{text}");
    }
    let text = printed("first_program", "sim:t4@11.4");
    assert!(text.contains("Single-context mode"), "{text}");
}

/// A person reads the error, and not how it is written in Rust.
#[test]
fn errors_are_for_people() {
    for (example, driver, words) in [
        (
            "protected_latency",
            "/no/such/libcuda.so.1",
            "cannot be loaded",
        ),
        (
            "models_in_a_budget",
            "sim:gtx480@13.0",
            "no simulated device",
        ),
        ("rebalance_under_load", "sim:h200@12.4", "12.5 or later"),
    ] {
        let output = run(example, driver);
        assert!(!output.status.success(), "{example} on {driver}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains(words) && !error.contains('{'),
            "{example}: {error}"
        );
        assert_eq!(error.lines().count(), 1, "{example}: {error}");
    }
}

/// Two processes hold the two names of a plan at the same time, and a third gets neither.
#[test]
#[cfg(target_os = "linux")]
fn processes_share_a_device() {
    let tests = std::env::current_exe().unwrap();
    let folder = std::env::temp_dir().join(format!("cuda-green-example-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let start = |arguments: &[&str]| {
        let examples = tests.parent().unwrap().parent().unwrap().join("examples");
        Command::new(examples.join("shared_device"))
            .args(arguments)
            .env("CUDA_GREEN_DRIVER", "sim:h200@13.0")
            .env("CUDA_GREEN_SHARED_DIR", folder.join("plan"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let both = [start(&["serving", "1"]), start(&["indexing", "1"])];
    for (name, process) in ["serving", "indexing"].iter().zip(both) {
        let output = process.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("held by this manager"), "{text}");
        assert!(text.contains(&format!("\n{name}: ")), "{text}");
    }
    let other = start(&["training", "1"]).wait_with_output().unwrap();
    assert!(!other.status.success());
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(said.contains("no partition \"training\""), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}

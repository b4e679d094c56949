//! Errors as a user meets them: a code to exit with, a text that names what is wrong, and the same as JSON.

use std::{fs, path::Path};

use crate::common::{program, run, skip, text};
use serde_json::Value;

/// Runs the program with these faults of the simulated driver.
fn faulty(arguments: &[&str], faults: &str) -> (Option<i32>, String, String) {
    let mut program = program(arguments);
    program.env("CUDA_GREEN_DRIVER", "sim:h200@13.0");
    let output = program
        .env("CUDA_GREEN_SIM_FAULTS", faults)
        .output()
        .unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_violation_is_named_and_no_success() {
    let seeded = "green#2=everywhere";
    for (arguments, names) in [
        (
            &["check"] as &[&str],
            "partitions 1 and 2 of four both ran on 32 SMs",
        ),
        (
            &["check"],
            "partition 2 of four has 32 SMs according to the driver, but ran on 132",
        ),
        (&["check"], "Partitions do not hold here"),
        (&["map"], "!  SHARED        100 SMs"),
        (&["map"], "Partitions do not hold here"),
        (&["check", "--json"], r#""partitions_hold": false"#),
        (&["map", "--json"], r#""shared_sms": 100"#),
    ] {
        let (code, stdout, stderr) = faulty(arguments, seeded);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stdout.contains(names), "{arguments:?}: {stdout}");
        let (code, stdout, _) = faulty(arguments, "");
        assert_eq!(code, Some(0), "{arguments:?}: {stdout}");
        assert!(!stdout.contains(names), "{arguments:?}: {stdout}");
    }
}

#[test]
fn codes_of_the_driver_are_named_with_what_to_do() {
    for (fault, said) in [
        ("cuInit=NO_DEVICE", "the driver sees no GPU"),
        (
            "cuInit=SYSTEM_DRIVER_MISMATCH",
            "restart the machine|runtime mount it",
        ),
        ("cuInit=COMPAT_NOT_SUPPORTED_ON_DEVICE", "cuda-compat"),
        ("cuInit=STUB_LIBRARY", "for linking only"),
        ("cuInit=SYSTEM_NOT_READY", "nvidia-fabricmanager"),
        ("cuInit=MPS_CONNECTION_FAILED", "nvidia-cuda-mps-control"),
        (
            "cuDevicePrimaryCtxRetain=DEVICE_UNAVAILABLE",
            "compute mode",
        ),
        ("cuDevicePrimaryCtxRetain=OUT_OF_MEMORY", "nvidia-smi"),
    ] {
        let (code, stdout, stderr) = faulty(&["info"], fault);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{fault}");
        let flat = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            said.split('|').any(|said| flat.contains(said)),
            "{fault}: {stderr}"
        );

        let (code, stdout, stderr) = faulty(&["info", "--json"], fault);
        assert_eq!((code, stderr.as_str()), (Some(1), ""), "{fault}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        let advice = report["error"]["advice"].as_array().unwrap();
        assert!(!advice.is_empty(), "{fault}: {stdout}");
        let name = fault.split('=').next_back().unwrap();
        if name != "NO_DEVICE" {
            assert_eq!(report["error"]["code_name"], format!("CUDA_ERROR_{name}"));
        }
        assert!(report["situation"]["device_files"]["/dev/nvidiactl"].is_string());
    }
}

#[test]
fn errors_are_json_where_json_was_asked_for() {
    let sim = ["--driver", "sim:h200@13.0"];
    let old = ["--driver", "sim:t4@11.4"];
    for (arguments, driver, code, said) in [
        (
            &["info", "--device", "3"] as &[&str],
            sim,
            1,
            "there is no device 3",
        ),
        (&["plan", "64", "70"], sim, 1, "needs at least 134 SMs"),
        (&["plan"], old, 1, "Tesla T4 cannot be partitioned"),
        (&["map", "5000"], sim, 1, "`5000` needs at least 5000 SMs"),
        (
            &["map", "--svg", "/nowhere/x.svg"],
            sim,
            1,
            "/nowhere/x.svg",
        ),
        (&["check", "--device", "3"], sim, 1, "there is no device 3"),
        (&["info"], ["--driver", "/nowhere/l.so"], 1, "/nowhere/l.so"),
        (
            &["info"],
            ["--driver", ""],
            2,
            "does not name a CUDA driver",
        ),
        (&["plan", "x"], sim, 2, "`x` is not a size"),
        (&["nothing"], sim, 2, "nothing"),
    ] {
        let output = run(&[arguments, &driver, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let message = report["error"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{arguments:?}: {message}");
        assert!(!message.contains("\u{1b}"), "{arguments:?}: {message}");
    }
}

#[test]
fn a_fault_that_is_none_is_told_with_the_variable_that_says_it() {
    let (code, _, stderr) = faulty(&["check"], "garbage");
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: `garbage` is not a fault"),
        "{stderr}"
    );
    assert!(
        stderr.contains("It comes from CUDA_GREEN_SIM_FAULTS"),
        "{stderr}"
    );
    assert!(!stderr.contains("tells it to fail"), "{stderr}");
}

#[test]
fn negative_numbers_are_values_that_are_refused() {
    for (arguments, said) in [
        (
            &["check", "--device", "-1"] as &[&str],
            "invalid value '-1' for '--device",
        ),
        (&["bench", "alloc", "--soak", "-0.5"], "a soak takes 0.1 to"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(said), "{stderr}");
    }
}

/// Without a GPU, the advice is the same command on a simulated one, not another command.
#[test]
fn the_advice_for_a_machine_without_a_gpu_is_true_of_every_command() {
    for command in [
        &["map"] as &[&str],
        &["check"],
        &["demo"],
        &["bench", "isolation"],
        &["plan", "64"],
    ] {
        let mut program = program(command);
        let program = program.env("CUDA_GREEN_DRIVER", "sim:h200@13.0");
        let output = program
            .env("CUDA_GREEN_SIM_FAULTS", "cuInit=NO_DEVICE")
            .output();
        let said = text(&output.unwrap().stderr);
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let advice = "Without a GPU: run this command with `--driver sim:h200@13.0`";
        assert!(flat.contains(advice), "{command:?}: {said}");
        assert!(!flat.contains("`cuda-green info"), "{command:?}: {said}");
    }
}

/// Tries real drivers on a machine without a GPU, named as libraries and as the system's.
#[test]
fn real_drivers_without_a_gpu_say_so() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda/drivers");
    let drivers: Vec<_> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    if drivers.is_empty() {
        return skip("cuda-green on real drivers: none is in target/cuda/drivers");
    }
    if Path::new("/proc/driver/nvidia/version").exists() {
        return eprintln!("skipped: these drivers are not without a GPU here");
    }
    for driver in drivers {
        let version = driver.file_name().into_string().unwrap();
        let library = driver.path().join("libcuda.so.1");
        let named = run(&["info", "--driver", library.to_str().unwrap()]);
        let mut system = program(&["info", "--driver", "system"]);
        let system = system
            .env("LD_LIBRARY_PATH", driver.path())
            .output()
            .unwrap();
        for output in [named, system] {
            assert_eq!(output.status.code(), Some(1), "{version}");
            let said = text(&output.stderr);
            let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                flat.starts_with("error: the driver sees no GPU ("),
                "{said}"
            );
            assert!(flat.contains(&format!("CUDA {version})")), "{said}");
            assert!(flat.contains("/proc/driver/nvidia/version"), "{said}");
            let old = ["11.4", "12.2"].contains(&version.as_str());
            assert_eq!(flat.contains("single-context mode"), old, "{said}");
            assert!(flat.contains("--driver sim:h200@13.0"), "{said}");
        }
    }
}

#[test]
fn a_simulated_driver_is_not_blamed_on_the_machine_s_devices() {
    for arguments in [&["check"] as &[&str], &["info", "--device", "7"]] {
        let with = |variables: &[(&str, &str)]| {
            let mut program = program(&[arguments, &["--driver", "sim:h200@13.0"]].concat());
            let output = program.envs(variables.iter().copied()).output().unwrap();
            text(&output.stdout) + &text(&output.stderr)
        };
        assert_eq!(with(&[("CUDA_VISIBLE_DEVICES", "-1")]), with(&[]));
    }
}

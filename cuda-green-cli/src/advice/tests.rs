//! Tests of the advice in each situation, above all that nothing is said without support.

mod codes;
mod gpu;
mod library;

use std::path::PathBuf;

use cuda_green::{CUresult, CudaVersion, Error, sys};

use super::advice;
use crate::situation::{FileState, Situation};

fn not_found() -> Error {
    Error::Load(sys::Error::DriverNotFound { tried: Vec::new() })
}

fn no_gpu(major: u16, minor: u8) -> Error {
    Error::NoGpu {
        source_name: "system".into(),
        driver: CudaVersion::new(major, minor),
    }
}

fn code(code: CUresult) -> Error {
    Error::Driver {
        call: "cuInit",
        code,
    }
}

fn files(states: [FileState; 3]) -> Vec<(String, FileState)> {
    let paths = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"];
    paths.into_iter().map(str::to_owned).zip(states).collect()
}

/// Returns a machine without any fault.
fn healthy() -> Situation {
    Situation {
        kernel_module: Some("580.159.04".into()),
        gpus_on_bus: Some(1),
        device_files: files([FileState::Opens, FileState::Opens, FileState::Opens]),
        loaded: Some("/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04".into()),
        ..Situation::default()
    }
}

/// Returns the machine with these variables.
fn with(mut situation: Situation, variables: &[(&'static str, &str)]) -> Situation {
    let owned = variables
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    situation.variables.extend(owned);
    situation
}

fn container(situation: Situation) -> Situation {
    Situation {
        container: Some("/.dockerenv".into()),
        ..situation
    }
}

/// Asserts that the advice contains all of `said` and none of `unsaid`.
#[track_caller]
fn says(error: &Error, situation: &Situation, said: &[&str], unsaid: &[&str]) {
    let text = advice(error, situation).join("\n");
    for word in said {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    for word in unsaid {
        assert!(!text.contains(word), "`{word}` is in:\n{text}");
    }
}

const CONTAINER: &str = "docker run --gpus all";

#[test]
fn nothing_that_is_said_runs_on_without_an_end() {
    let situations = [
        Situation::default(),
        healthy(),
        container(Situation::default()),
    ];
    for situation in situations {
        for error in [
            not_found(),
            no_gpu(11, 4),
            code(CUresult(999)),
            code(CUresult(803)),
        ] {
            for sentence in advice(&error, &situation) {
                assert!(sentence.ends_with(['.', '`']), "{sentence}");
                assert!(!sentence.contains("  "), "{sentence}");
            }
        }
    }
}

#[test]
fn a_simulated_driver_is_told_from_a_real_one() {
    let faults = [("CUDA_GREEN_SIM_FAULTS", "cuInit=803")];
    let simulated = Situation {
        simulated: true,
        ..with(healthy(), &faults)
    };
    let mismatch = code(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
    let told = "The driver is simulated, and CUDA_GREEN_SIM_FAULTS tells it to fail: `cuInit=803`";
    says(&mismatch, &simulated, &[told, "restart"], &[]);
    says(&mismatch, &with(healthy(), &faults), &["restart"], &[told]);
    assert!(advice(&Error::ContextIsCurrent, &simulated).is_empty());
}

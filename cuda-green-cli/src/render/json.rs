//! Reports as JSON: one object, with the device and the driver that it speaks of.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use cuda_green::CudaDevice;
use serde_json::{Value, json};

use super::output;

/// Builds a report: the device and the driver, and under `name` what the command found.
///
/// The variable `CUDA_GREEN_COMMIT` gives the commit, for figures that become evidence.
pub fn report(device: &CudaDevice, command: &str, name: &str, found: Value) -> Value {
    let driver = device.driver();
    let (major, minor) = device.properties().compute_capability;
    let kernel_module = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let mut report = json!({
        "device": device.name(),
        "ordinal": device.ordinal(),
        "sm_count": device.properties().multiprocessor_count,
        "compute_capability": format!("{major}.{minor}"),
        "driver": driver.source(),
        "cuda_version": driver.version().to_string(),
        "kernel_module": kernel_module.lines().next(),
        "simulated": driver.is_simulated(),
        "version": env!("CARGO_PKG_VERSION"),
        "command": command,
    });
    if let Ok(commit) = std::env::var("CUDA_GREEN_COMMIT") {
        report["commit"] = commit.into();
    }
    report[name] = found;
    report
}

/// Whether a report was printed. An error after it is printed as text, so that the output stays one JSON object.
static PRINTED: AtomicBool = AtomicBool::new(false);

pub fn was_printed() -> bool {
    PRINTED.load(Ordering::Relaxed)
}

/// Prints JSON, ended by a line break.
pub fn print(report: &Value) -> anyhow::Result<()> {
    PRINTED.store(true, Ordering::Relaxed);
    let text = serde_json::to_string_pretty(report)? + "\n";
    output::print(&text)
}

//! What every command's output has in common: the device and driver that it speaks of, as text or JSON.

use std::fs;

use anstyle::{AnsiColor, Style};
use cuda_green::CudaDevice;
use serde_json::{Value, json};

pub const BOLD: Style = Style::new().bold();
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const RED: Style = AnsiColor::Red.on_default().bold();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();

/// A heading that says which device and driver this is, and that it is simulated where it is.
pub fn heading(device: &CudaDevice) -> String {
    let driver = device.driver();
    let (major, minor) = device.properties().compute_capability;
    let simulated = if driver.is_simulated() {
        format!("\n{YELLOW}SIMULATED: no GPU is behind this{YELLOW:#}")
    } else {
        String::new()
    };
    format!(
        "{BOLD}{}{BOLD:#}: {} SMs, compute capability {major}.{minor}, CUDA {} from {}{simulated}",
        device.name(),
        device.properties().multiprocessor_count,
        driver.version(),
        driver.source(),
    )
}

/// The same as JSON, with what a command found under a name of its own.
///
/// The commit is what `CUDA_GREEN_COMMIT` says, for figures that are kept as evidence.
pub fn json(device: &CudaDevice, command: &str, name: &str, found: Value) -> Value {
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

/// Prints JSON, ended by a line break.
pub fn print(report: &Value) -> anyhow::Result<()> {
    anstream::println!("{}", serde_json::to_string_pretty(report)?);
    Ok(())
}

//! Evidence: what was seen on a GPU, as a JSON file that says where it comes from.

use std::{error::Error, fs, path::Path};

use cuda_green::CudaDevice;
use serde_json::{Value, json};

/// Writes figures to a file, with the device, driver, commit and command that they come from.
///
/// The commit is what `CUDA_GREEN_COMMIT` says; the GPU bundle's script sets it.
///
/// # Errors
/// What the file system says.
pub fn write(
    path: &Path,
    device: &CudaDevice,
    command: &str,
    figures: Value,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let driver = device.driver();
    let (major, minor) = device.properties().compute_capability;
    let kernel_module = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let evidence = json!({
        "device": device.name(),
        "sm_count": device.properties().multiprocessor_count,
        "compute_capability": format!("{major}.{minor}"),
        "cuda_version": driver.version().to_string(),
        "kernel_module": kernel_module.lines().next().unwrap_or("unknown"),
        "simulated": driver.is_simulated(),
        "commit": std::env::var("CUDA_GREEN_COMMIT").unwrap_or_else(|_| "unknown".into()),
        "command": command,
        "figures": figures,
    });
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_string_pretty(&evidence)? + "\n")?;
    Ok(())
}

//! Evidence: what was seen on a GPU, as a JSON file that says where it comes from.

use std::{error::Error, fs, io, path::Path};

use cuda_green::CudaDevice;
use serde_json::{Value, json};

/// Checks that a file can be written, before minutes are spent on its content. Leaves the file unchanged.
///
/// # Errors
/// An error of the file system, with the file's name.
pub fn check(path: &Path) -> io::Result<()> {
    let named = |error: io::Error| {
        let said = format!("{}: {error}", path.display());
        io::Error::new(error.kind(), said)
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(named)?;
    }
    let is_new = !path.exists();
    let mut options = fs::OpenOptions::new();
    options
        .append(true)
        .create(true)
        .open(path)
        .map_err(named)?;
    if is_new {
        fs::remove_file(path).map_err(named)?;
    }
    Ok(())
}

/// Writes figures to a file, with the device, driver, commit and command that they come from.
///
/// The commit is what `CUDA_GREEN_COMMIT` says; the GPU bundle's script sets it.
///
/// # Errors
/// An error of the file system.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_with_its_name_and_what_can_stays_as_it_is() {
        let folder = std::env::temp_dir().join(format!("evidence-{}", std::process::id()));
        let path = folder.join("a/b.json");
        check(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "before").unwrap();
        check(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        for wrong in [folder.join("a"), path.join("c.json")] {
            let said = check(&wrong).unwrap_err().to_string();
            assert!(said.starts_with(wrong.to_str().unwrap()), "{said}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}

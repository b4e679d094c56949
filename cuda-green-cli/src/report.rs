//! What every command's output has in common: the device and driver that it speaks of, as text or JSON.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anstyle::{AnsiColor, Style};
use cuda_green::CudaDevice;
use serde_json::{Value, json};

use crate::{
    out,
    page::{printable_line, width, wrapped},
};

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
    let heading = format!(
        "{BOLD}{}{BOLD:#}: {} SMs, compute capability {major}.{minor}, CUDA {} from {}{simulated}",
        printable_line(device.name()),
        device.properties().multiprocessor_count,
        driver.version(),
        printable_line(driver.source()),
    );
    wrapped(&heading, width(&io::stdout()), "  ")
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

/// Whether a report was printed: an error that comes after it is told apart from it, as text, so that the output
/// is one JSON object.
static PRINTED: AtomicBool = AtomicBool::new(false);

pub fn was_printed() -> bool {
    PRINTED.load(Ordering::Relaxed)
}

/// Prints JSON, ended by a line break.
pub fn print(report: &Value) -> anyhow::Result<()> {
    PRINTED.store(true, Ordering::Relaxed);
    let text = serde_json::to_string_pretty(report)? + "\n";
    out::print(&text)
}

/// Says that a file was written.
pub fn wrote(path: &Path) -> String {
    format!("wrote {}", printable_line(&path.display().to_string()))
}

/// The file that the driver was loaded from, where the system tells what this process has mapped.
///
/// `source` is what the driver says of itself: a library may have been named that is called otherwise.
pub fn library(source: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    mapped(&maps, fs::canonicalize(source).ok().as_deref())
}

/// Finds the library that was named, or else one that is called as drivers are: what was named can be linked to that.
fn mapped(maps: &str, named: Option<&Path>) -> Option<PathBuf> {
    let paths = || {
        let lines = maps.lines().filter_map(|line| line.split_once('/'));
        lines.map(|(_, path)| PathBuf::from(format!("/{path}")))
    };
    let is_called_so = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libcuda.so")
    };
    paths()
        .find(|path| named == Some(path))
        .or_else(|| paths().find(is_called_so))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_library_that_was_named_comes_before_the_driver_behind_it() {
        let maps = "7f00-7f01 r-xp 00000000 08:01 17  /usr/lib/libcuda.so.580.1\n\
                    7f02-7f03 rw-p 00000000 00:00 0\n\
                    7f04-7f05 r-xp 00000000 08:01 18  /opt/a shim.so\n";
        let mapped = |named: Option<&str>| mapped(maps, named.map(Path::new));
        assert_eq!(
            mapped(Some("/opt/a shim.so")),
            Some("/opt/a shim.so".into())
        );
        let driver = Some(PathBuf::from("/usr/lib/libcuda.so.580.1"));
        assert_eq!(mapped(None), driver);
        assert_eq!(mapped(Some("/opt/other.so")), driver);
        assert_eq!(super::mapped("", None), None);
    }

    #[test]
    fn a_library_is_found_by_the_name_that_it_was_given() {
        // What this process has mapped for certain is its own program.
        let program = std::env::current_exe().unwrap();
        let program = fs::canonicalize(program).unwrap();
        assert_eq!(library(program.to_str().unwrap()), Some(program));
        assert_eq!(library("sim:h200@13.0"), None);
        assert_eq!(library("/nowhere/libother.so"), None);
    }
}

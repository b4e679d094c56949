//! What the benchmarks share: their arguments, their evidence file, and percentiles.

use std::{error::Error, path::PathBuf};

use clap::Parser;
use cuda_green::{CudaDevice, Driver, DriverSpec};
use serde_json::{Map, Value, json};

pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
pub struct Args {
    /// `system`, a library's path, or `sim:<device>@<major>.<minor>` to try the benchmark itself
    #[arg(long, default_value = "system")]
    pub driver: DriverSpec,
    /// Write the figures to this file as JSON
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// A small run that proves the benchmark works; its figures mean nothing
    #[arg(long)]
    pub quick: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Args {
    pub fn device(&self) -> Outcome<CudaDevice> {
        let driver = Driver::open(&self.driver)?;
        if driver.is_simulated() {
            eprintln!(
                "SIMULATED: {} has no GPU behind it, so the figures mean nothing",
                driver.source()
            );
        }
        Ok(driver.device(0)?)
    }

    /// Prints where the figures are from and, if asked, writes them to the file.
    pub fn write(&self, device: &CudaDevice, name: &str, figures: Map<String, Value>) -> Outcome {
        let Some(path) = &self.out else { return Ok(()) };
        let driver = device.driver();
        let module = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
        let evidence = json!({
            "benchmark": name,
            "device": device.name(),
            "sm_count": device.properties().multiprocessor_count,
            "cuda_version": driver.version().to_string(),
            "kernel_driver": module.lines().next().unwrap_or("unknown"),
            "simulated": driver.is_simulated(),
            "commit": std::env::var("CUDA_GREEN_COMMIT").unwrap_or_else(|_| "unknown".into()),
            "command": format!("cargo bench --bench {name} -- --driver system --out FILE"),
            "quick": self.quick,
            "figures": figures,
        });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(&evidence)? + "\n")?;
        Ok(())
    }
}

/// The value below which this share of the sorted samples lies.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    sorted[index - 1]
}

pub fn sort(samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
}

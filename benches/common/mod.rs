//! What the benchmarks share: their arguments, their evidence file, and percentiles.

use std::{error::Error, path::PathBuf};

use clap::Parser;
use cuda_green::{CudaDevice, Driver, DriverSpec};
use driver_matrix::evidence;
use serde_json::{Map, Value};

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

    /// Writes the figures to the file, if one was asked for.
    pub fn write(&self, device: &CudaDevice, bench: &str, figures: Map<String, Value>) -> Outcome {
        let Some(path) = &self.out else { return Ok(()) };
        let quick = if self.quick { " --quick" } else { "" };
        let driver = device.driver().source();
        let command = format!("cargo bench --bench {bench} -- --driver {driver}{quick} --out FILE");
        evidence::write(path, device, &command, Value::Object(figures))
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

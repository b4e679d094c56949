//! `cuda-green bench`: measurements of what the documentation claims, on this machine.

mod activate;
mod alloc;
mod args;
mod clock;
mod create;
mod isolation;
mod load;
mod raw;
mod rebalance;
mod samples;
mod show;
mod startup;
mod under_load;

use std::process::ExitCode;

use alloc::soak;
pub use args::Bench;
use args::Measurement;
use cuda_green::{CudaDevice, GreenContextConfig};
use show::Show;

use crate::args::Global;

pub fn run(global: &Global, bench: &Bench) -> anyhow::Result<ExitCode> {
    let show = Show {
        global,
        quick: bench.quick,
    };
    match &bench.what {
        Measurement::Isolation(drawing) => show.drawn(drawing, isolation::measure)?,
        Measurement::Activate(drawing) => show.drawn(drawing, activate::measure)?,
        Measurement::Rebalance(drawing) => show.drawn(drawing, rebalance::measure)?,
        Measurement::UnderLoad => show.told("under-load", under_load::measure)?,
        Measurement::Alloc {
            soak: Some(seconds),
            threads,
            ..
        } => {
            let length = soak::Length {
                seconds: *seconds,
                threads: *threads,
            };
            show.told(
                &format!("alloc --soak {seconds} --threads {threads}"),
                |work| soak::measure(work, &length),
            )?;
        }
        Measurement::Alloc { drawing, .. } => show.drawn(drawing, alloc::measure)?,
        Measurement::Startup { only: Some(part) } => startup::only(*part)?,
        Measurement::Startup { only: None } => show.told("startup", startup::measure)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn config(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        sm_count,
        ..GreenContextConfig::default()
    }
}

/// Refuses a device without partitions, whose figures would be those of something else.
fn must_have_partitions(device: &CudaDevice) -> anyhow::Result<()> {
    match device.missing_features() {
        None => Ok(()),
        Some(reason) => anyhow::bail!("nothing to measure: {reason}"),
    }
}

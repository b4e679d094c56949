//! `cuda-green bench`: measurements of what the documentation claims, on this machine.

mod activate;
mod alloc;
mod clock;
pub mod contexts;
mod create;
#[cfg(feature = "embed")]
mod embed;
#[cfg(any(feature = "processes", feature = "queue"))]
mod found;
#[cfg(any(feature = "embed", feature = "processes", feature = "queue"))]
mod goal;
mod isolation;
pub mod load;
pub mod numbers;
#[cfg(feature = "processes")]
mod processes;
mod progress;
#[cfg(feature = "queue")]
mod queue;
mod raw;
mod rebalance;
mod run;
pub mod samples;
#[cfg(feature = "embed")]
mod service;
mod startup;
#[cfg(test)]
mod tests;
mod under_load;
#[cfg(any(feature = "embed", feature = "processes", feature = "queue"))]
mod watch;

use std::process::ExitCode;

use alloc::soak;
use run::Run;

use crate::args::{Bench, Global, Measurement};

pub fn run(global: &Global, bench: &Bench) -> anyhow::Result<ExitCode> {
    let run = Run {
        global,
        quick: bench.quick,
    };
    match &bench.what {
        Measurement::Isolation(drawing) => run.with_picture(drawing, isolation::measure)?,
        Measurement::Activate(drawing) => run.with_picture(drawing, activate::measure)?,
        Measurement::Rebalance(drawing) => run.with_picture(drawing, rebalance::measure)?,
        Measurement::UnderLoad => run.without_picture("under-load", under_load::measure)?,
        Measurement::Alloc {
            soak: Some(seconds),
            threads,
            ..
        } => {
            let length = soak::Length {
                seconds: *seconds,
                threads: *threads,
            };
            run.without_picture(
                &format!("alloc --soak {seconds} --threads {threads}"),
                |work| soak::measure(work, &length),
            )?;
        }
        Measurement::Alloc { drawing, .. } => run.with_picture(drawing, alloc::measure)?,
        #[cfg(feature = "embed")]
        Measurement::Embed(options) if options.only_first => {
            run.quietly(|work| embed::first_vector(work, options))?;
        }
        #[cfg(feature = "embed")]
        Measurement::Embed(options) => {
            run.with_picture(&options.drawing, |work| embed::measure(work, options))?;
        }
        #[cfg(feature = "embed")]
        Measurement::Service(options) => {
            run.with_picture(&options.drawing, |work| service::measure(work, options))?;
        }
        #[cfg(feature = "queue")]
        Measurement::Queue(options) => match options.tasks {
            Some(tasks) => {
                let command = format!("queue --tasks {tasks}");
                run.without_picture(&command, |work| queue::soak(work, tasks))?;
            }
            None => run.with_picture(&options.drawing, queue::measure)?,
        },
        #[cfg(feature = "processes")]
        Measurement::Processes(options) => match options.part {
            Some(part) => processes::part(global, part)?,
            None => run.with_picture(&options.drawing, |work| {
                processes::measure(work, !options.no_mps_daemon)
            })?,
        },
        Measurement::Startup { only: Some(part) } => startup::only(*part)?,
        Measurement::Startup { only: None } => run.without_picture("startup", startup::measure)?,
    }
    Ok(ExitCode::SUCCESS)
}

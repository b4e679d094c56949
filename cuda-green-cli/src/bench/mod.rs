//! `cuda-green bench`: measurements of what the documentation claims, on this machine.

mod isolation;
mod load;
mod samples;

use std::process::ExitCode;

use crate::args::{Bench, Global, Measurement};

pub fn run(global: &Global, bench: &Bench) -> anyhow::Result<ExitCode> {
    match &bench.what {
        Measurement::Isolation {
            svg: Some(svg),
            from: Some(from),
        } => isolation::redraw(from, svg)?,
        Measurement::Isolation { svg, .. } => {
            isolation::run(global, bench.quick, svg.as_deref())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

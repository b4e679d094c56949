//! The program `cuda-green`: what green contexts do for your GPU, without writing code.

mod args;
mod bench;
mod check;
mod chip;
mod duration;
mod info;
mod map;
mod plan;
mod plot;
mod report;
mod request;

use std::process::ExitCode;

use args::{Args, Command};
use clap::{CommandFactory, Parser};
use cuda_green::CUresult;
use report::RED;

fn main() -> ExitCode {
    let args = Args::parse();
    args.global.color.write_global();
    let done = match &args.command {
        Command::Info => info::run(&args.global),
        Command::Plan(sizes) => plan::run(&args.global, sizes),
        Command::Map { sizes, svg } => map::run(&args.global, sizes, svg.as_deref()),
        Command::Check => check::run(&args.global),
        Command::Bench(bench) => bench::run(&args.global, bench),
        Command::Completions { shell } => {
            let name = "cuda-green";
            clap_complete::generate(*shell, &mut Args::command(), name, &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => clap_mangen::Man::new(Args::command())
            .render(&mut std::io::stdout())
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("{RED}error:{RED:#} {error:#}");
            if let Some(advice) = advice(&error) {
                anstream::eprintln!("{advice}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What helps further than the error's own words.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    use cuda_green::Error;
    match error.downcast_ref::<Error>()? {
        Error::Load(_) | Error::NoGpu { .. } => Some(
            "To see what it would show, name a simulated driver: --driver sim:h200@13.0\n\
             In a container, the driver must be mounted: docker run --gpus all, and\n\
             NVIDIA_DRIVER_CAPABILITIES with `compute` in it.",
        ),
        Error::Driver {
            code: CUresult::CUDA_ERROR_OPERATING_SYSTEM | CUresult::CUDA_ERROR_NOT_PERMITTED,
            ..
        } => {
            Some("Check that this user may open /dev/nvidiactl, /dev/nvidia0 and /dev/nvidia-uvm.")
        }
        _ => None,
    }
}

//! The program `cuda-green`: what green contexts do for your GPU, without writing code.

mod args;
mod bench;
mod info;
mod plot;
mod report;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    args.global.color.write_global();
    let done = match &args.command {
        Command::Info => info::run(&args.global),
        Command::Bench(bench) => bench::run(&args.global, bench),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!(
                "{}error:{} {error:#}",
                report::RED,
                report::RED.render_reset()
            );
            ExitCode::FAILURE
        }
    }
}

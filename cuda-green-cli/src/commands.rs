//! The subcommands: one module each.

mod bench;
mod check;
mod completions;
mod demo;
mod info;
mod man;
mod map;
mod partitions;
mod plan;

use std::process::ExitCode;

use crate::args::{Args, Command};

/// Runs the command that the command line names, and returns the code to exit with.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let global = &args.global;
    match &args.command {
        Command::Demo => return demo::run(global),
        Command::Info => return info::run(global),
        Command::Plan(sizes) => return plan::run(global, sizes),
        Command::Map { sizes, svg } => return map::run(global, sizes, svg.as_deref()),
        Command::Check { processes } => return check::run(global, *processes),
        Command::Partitions(partitions) => return partitions::run(global, partitions),
        Command::Bench(bench) => return bench::run(global, bench),
        Command::SeparationPartner => cuda_green::serve_separation_test(&global.driver()?)?,
        Command::Completions { shell } => completions::run(*shell)?,
        Command::Man { dir } => man::run(dir.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

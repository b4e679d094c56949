//! The program of the driver matrix: reports on one driver and prints the table, in a separate process.

use std::{
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use cuda_green::{Driver, DriverSpec};
use driver_matrix::{drivers, evidence, matrix};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Loads a driver and prints, as JSON, what it is and lacks.
    Report {
        /// As `CUDA_GREEN_DRIVER` takes it; without it, what that variable says.
        driver: Option<OsString>,
        /// Writes the report to this file instead, with the device, driver, commit and command that it
        /// comes from. Needs a GPU.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Loads the driver that `CUDA_GREEN_DRIVER` names from many threads at once, by both crates, and
    /// prints what they got as JSON.
    Load,
    /// Prints which entry points and struct fields each CUDA version has, as Markdown.
    Table,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    match Options::parse().command {
        Command::Report { driver, out } => {
            let spec = match driver {
                Some(text) => DriverSpec::parse(&text),
                None => DriverSpec::from_env(),
            };
            match out {
                None => println!("{}", serde_json::to_string_pretty(&drivers::report(spec))?),
                Some(path) => write_evidence(&path, &spec?)?,
            }
        }
        Command::Load => println!("{}", serde_json::to_string_pretty(&drivers::load())?),
        Command::Table => print!("{}", matrix::table(&std::env::current_exe()?)?),
    }
    Ok(())
}

/// Writes the report on a driver with a GPU behind it, and where it comes from.
fn write_evidence(path: &Path, spec: &DriverSpec) -> Result<(), Box<dyn Error>> {
    evidence::check(path)?;
    let report = drivers::report(Ok(spec.clone()));
    let device = Driver::open(spec)?.device(0)?;
    let command =
        "cargo run --release --package driver-matrix -- report system --out evidence/driver.json";
    evidence::write(path, &device, command, serde_json::to_value(report)?)
        .map_err(|error| error as Box<dyn Error>)
}

//! What the driver matrix does in a process of its own: reports on one driver, prints the table.

use std::{error::Error, ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use cuda_green_sys::DriverSpec;
use driver_matrix::{drivers, matrix};

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
        Command::Report { driver } => {
            let spec = match driver {
                Some(text) => DriverSpec::parse(&text),
                None => DriverSpec::from_env(),
            };
            let report = drivers::report(spec);
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        Command::Load => println!("{}", serde_json::to_string_pretty(&drivers::load())?),
        Command::Table => print!("{}", matrix::table(&std::env::current_exe()?)?),
    }
    Ok(())
}

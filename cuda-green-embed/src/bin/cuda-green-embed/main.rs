//! The program `cuda-green-embed`: texts to vectors inside a share of a GPU, without writing code.

mod args;
mod embed;
mod failure;
#[cfg(all(test, feature = "server"))]
#[allow(clippy::unwrap_used, dead_code)] // tests; as `library` needs it
#[path = "../../../tests/library/fake_encoder.rs"]
mod fake_encoder;
mod info;
mod lines;
mod place;
#[cfg(feature = "server")]
mod serve;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    args.color.write_global();
    let done = match &args.command {
        Command::Embed(options) => embed::run(options),
        Command::Info(options) => info::run(options),
        #[cfg(feature = "server")]
        Command::Serve(options) => serve::run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

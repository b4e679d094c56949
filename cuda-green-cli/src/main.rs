//! The program `cuda-green`: green contexts on your GPU, without writing code.

mod advice;
mod args;
mod commands;
mod failure;
mod partitions;
mod render;
mod situation;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use args::Args;
use clap::{Parser, error::ErrorKind};
use render::page::{printable, printable_line, width, wrapped};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    args.global.color.write_global();
    match commands::run(&args) {
        Ok(code) => code,
        Err(error) => failure::report(&error, &args.global),
    }
}

/// Prints help or the error of a command line, the error as JSON if that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let code = ExitCode::from(error.exit_code() as u8);
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::DisplayVersion
    );
    if !is_help && std::env::args_os().any(|argument| argument == "--json") {
        failure::print_usage(&error.render().to_string());
        return code;
    }
    let is_harmless = |argument: OsString| {
        let text = argument.to_string_lossy();
        printable_line(&text) == text
    };
    // An error repeats the arguments, which may come from a stranger.
    let text = if is_help || std::env::args_os().skip(1).all(is_harmless) {
        error.render().ansi().to_string()
    } else {
        printable(&error.render().to_string())
    };
    let text = if is_help {
        // Help is already broken into lines, but some end in blanks.
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    } else {
        wrapped(text.trim_end(), width(&io::stderr()), "  ")
    };
    // A closed terminal is no failure.
    let _ = if error.use_stderr() {
        writeln!(anstream::stderr().lock(), "{text}")
    } else {
        writeln!(anstream::stdout().lock(), "{text}")
    };
    code
}

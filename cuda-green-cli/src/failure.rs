//! The report of a failed command: the error and advice, as text or JSON.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use cuda_green::{DriverSpec, Error, sys};
use serde_json::{Value, json};

use crate::{
    advice::advice,
    args::Global,
    render::{
        json,
        page::{Page, printable, width},
        style::RED,
    },
    situation::{Situation, loaded_library},
};

/// Reports an error, and returns the code to exit with.
pub fn report(error: &anyhow::Error, global: &Global) -> ExitCode {
    let cause = error.downcast_ref::<Error>();
    let situation = cause.map(|cause| {
        let asked = global.asked();
        let loaded = library(cause, asked.as_ref());
        Situation::here(asked, loaded)
    });
    let advice = match (cause, &situation) {
        (Some(cause), Some(situation)) => advice(cause, situation),
        _ => Vec::new(),
    };
    let printed = if global.json && !json::was_printed() {
        json::print(&value(error, cause, &advice, situation.as_ref()))
    } else {
        let page = text(error, cause, &advice, width(&io::stderr()));
        let mut stderr = anstream::stderr().lock();
        stderr.write_all(page.text().as_bytes()).map_err(Into::into)
    };
    // If writing fails, there is no way left to report it.
    drop(printed);
    ExitCode::FAILURE
}

/// Returns the file of the driver that failed.
fn library(cause: &Error, asked: Option<&DriverSpec>) -> Option<PathBuf> {
    match (cause, asked) {
        (Error::NoGpu { source_name, .. }, _) => loaded_library(source_name),
        (_, Some(DriverSpec::Path(path))) => loaded_library(&path.to_string_lossy()),
        _ => loaded_library(""),
    }
}

/// Returns the error's text, without the advice that some errors contain, since this program adds its own.
fn words(error: &anyhow::Error, cause: Option<&Error>) -> String {
    match cause {
        Some(Error::Load(sys::Error::DriverNotFound { .. })) => "no CUDA driver was found".into(),
        Some(Error::NoGpu {
            source_name,
            driver,
        }) => format!("the driver sees no GPU ({source_name}, CUDA {driver})"),
        _ => format!("{error:#}"),
    }
}

/// Returns what the system's loader said of each place where it looked for a driver.
fn tried(cause: Option<&Error>) -> Vec<&str> {
    match cause {
        Some(Error::Load(sys::Error::DriverNotFound { tried })) => {
            tried.iter().map(|(_, reason)| reason.as_str()).collect()
        }
        _ => Vec::new(),
    }
}

fn text(error: &anyhow::Error, cause: Option<&Error>, advice: &[String], columns: usize) -> Page {
    let mut page = Page::of_width(columns);
    let label = format!("{RED}error:{RED:#} ");
    page.hanging(&label, "       ", printable(&words(error, cause)));
    for reason in tried(cause) {
        page.hanging("       ", "         ", printable(reason));
    }
    for advice in advice {
        page.hanging("  - ", "    ", printable(advice));
    }
    page
}

fn value(
    error: &anyhow::Error,
    cause: Option<&Error>,
    advice: &[String],
    situation: Option<&Situation>,
) -> Value {
    let code = match cause {
        Some(
            Error::Driver { code, .. }
            | Error::Poisoned { code, .. }
            | Error::ImageRefused { code, .. }
            | Error::LaunchRefused { code, .. },
        ) => Some(code),
        _ => None,
    };
    json!({
        "command": command(),
        "error": {
            "message": words(error, cause),
            "code": code.map(|code| code.0),
            "code_name": code.and_then(|code| code.name()),
            "tried": tried(cause),
            "advice": advice,
        },
        "situation": situation.map(Situation::json),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// Prints the error of a command line as JSON; `text` is the error as it would be printed otherwise.
pub fn print_usage(text: &str) {
    let message = text.split("\n\n").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    // As above: if writing fails, there is no way left to report it.
    let _ = json::print(&json!({
        "command": command(),
        "error": { "message": message },
        "version": env!("CARGO_PKG_VERSION"),
    }));
}

/// Returns the command line.
fn command() -> String {
    let arguments = env::args_os().skip(1);
    arguments.fold("cuda-green".to_owned(), |command, argument| {
        format!("{command} {}", argument.to_string_lossy())
    })
}

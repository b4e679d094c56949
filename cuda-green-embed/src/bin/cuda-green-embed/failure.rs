//! The report of a failed command: the error, and advice where the error has none.

use std::{io::Write, process::ExitCode};

use anstyle::{AnsiColor, Style};
use cuda_green_embed::Error;

pub const RED: Style = AnsiColor::Red.on_default().bold();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();

/// Reports an error, and returns the code to exit with.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let mut text = format!("{RED}error:{RED:#} {}\n", printable(&format!("{error:#}")));
    for advice in advice(error) {
        text += &format!("  - {advice}\n");
    }
    // If writing fails, there is no way left to report it.
    let _ = anstream::stderr().lock().write_all(text.as_bytes());
    ExitCode::FAILURE
}

fn advice(error: &anyhow::Error) -> Vec<&'static str> {
    let has_no_gpu = |error: &cuda_green::Error| {
        matches!(
            error,
            cuda_green::Error::NoGpu { .. } | cuda_green::Error::Load(_)
        )
    };
    let gpu = match error.downcast_ref::<Error>() {
        Some(Error::Gpu(gpu)) => Some(gpu),
        Some(_) => None,
        None => error.downcast_ref(),
    };
    if gpu.is_some_and(has_no_gpu) {
        return vec![
            "`cuda-green check` says what this machine lacks.",
            "Without a GPU, try `--driver sim:h200@13.0`: the same vectors, slowly, on the CPU.",
        ];
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Overflow { .. }) => vec!["Use `--precision bf16` or `--precision f32`."],
        Some(Error::Device { .. }) => {
            vec!["`--driver sim:h200@13.0` gives the same vectors, slowly, on the CPU."]
        }
        _ => Vec::new(),
    }
}

/// Makes text from outside harmless: control characters could move a terminal's cursor.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

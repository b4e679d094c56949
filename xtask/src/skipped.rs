//! What the tests skipped: each test that lacks something writes a line into one file, and
//! `cargo xtask test` shows them at its end.

use std::{fs, path::PathBuf};

/// The variable that names the file. `driver_matrix::skip` reads it.
pub const FILE_VARIABLE: &str = "CUDA_GREEN_SKIPPED";

/// Whether a missing header, driver or tool is a failure.
pub fn matrix_is_required() -> bool {
    std::env::var_os("CUDA_GREEN_REQUIRE_MATRIX").is_some_and(|value| value == "1")
}

/// Whether a tool is there: whether this command of it succeeds.
pub fn is_there(command: xshell::Cmd<'_>) -> bool {
    command
        .quiet()
        .ignore_stderr()
        .ignore_stdout()
        .run()
        .is_ok()
}

/// The file, empty.
pub fn start() -> std::io::Result<PathBuf> {
    let file = crate::root().join("target/cuda/skipped.txt");
    fs::create_dir_all(file.parent().unwrap_or(&file))?;
    fs::write(&file, "")?;
    Ok(file)
}

/// Its lines, each once.
pub fn lines(file: &PathBuf) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

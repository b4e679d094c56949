//! The list of skipped tests: each test that lacks something writes a line into one file, and
//! `cargo xtask test` shows them at its end.

use std::{fs, io, path::Path};

use tempfile::NamedTempFile;

/// The variable that names the file. `driver_matrix::skip` reads it.
pub const FILE_VARIABLE: &str = "CUDA_GREEN_SKIPPED";

/// Returns whether a missing header, driver or tool is a failure.
pub fn matrix_is_required() -> bool {
    std::env::var_os("CUDA_GREEN_REQUIRE_MATRIX").is_some_and(|value| value == "1")
}

/// Returns whether a tool is installed: whether this command of it succeeds.
pub fn is_there(command: xshell::Cmd<'_>) -> bool {
    command
        .quiet()
        .ignore_stderr()
        .ignore_stdout()
        .run()
        .is_ok()
}

/// Creates the file, empty. Each run has its own, since two may run at once.
pub fn start() -> io::Result<NamedTempFile> {
    NamedTempFile::with_prefix("cuda-green-skipped-")
}

/// Returns its lines, each once.
pub fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

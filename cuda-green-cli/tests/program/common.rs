//! Helpers that run the program as a user does.

use std::{
    env, fs,
    io::Write,
    process::{Command, Output},
};

/// Returns the program with these arguments, in an environment that decides nothing.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuda-green"));
    command.args(arguments);
    for name in [
        "CLICOLOR_FORCE",
        "COLUMNS",
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "CUDA_GREEN_DRIVER",
        "CUDA_GREEN_SIM_FAULTS",
        "CUDA_LAUNCH_BLOCKING",
        "CUDA_VISIBLE_DEVICES",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs the program in a pipe, and returns its output.
pub fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// Returns bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Notes a test that lacks what it needs; fails if nothing of the driver matrix may be missing.
pub fn skip(line: &str) {
    let required = env::var_os("CUDA_GREEN_REQUIRE_MATRIX").is_some_and(|value| value == "1");
    assert!(!required, "this would be skipped: {line}");
    note(line);
}

/// Notes a test that lacks a tool of the machine, for the list at the end of `cargo xtask test`.
pub fn note(line: &str) {
    eprintln!("skipped: {line}");
    if let Some(path) = env::var_os("CUDA_GREEN_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        // The line is on stderr already.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

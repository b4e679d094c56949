//! Tests that lack a header, a driver or a tool say so by name, and fail where the matrix is required.

use std::{env, fs, io::Write};

/// Says that a test could not run for want of something: on stderr, and for the end of
/// `cargo xtask test` in the file that `CUDA_GREEN_SKIPPED` names.
///
/// # Panics
/// Returns whether `CUDA_GREEN_REQUIRE_MATRIX=1`, under which nothing may be skipped.
pub fn skip(what: &str, why: &str) {
    let line = format!("{what}: {why}");
    assert!(
        env::var_os("CUDA_GREEN_REQUIRE_MATRIX").is_none_or(|value| value != "1"),
        "CUDA_GREEN_REQUIRE_MATRIX=1, and this would be skipped: {line}"
    );
    note(&line);
}

/// The same for what cannot be tested on this machine by its nature, such as a missing permission for
/// root, who has them all. Never a failure.
pub fn note(line: &str) {
    eprintln!("skipped: {line}");
    if let Some(path) = env::var_os("CUDA_GREEN_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        // The line is on stderr already; a list that cannot be written is no reason to fail.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// Returns whether the committed generated files are to be rewritten instead of compared.
pub fn bless() -> bool {
    env::var_os("BLESS").is_some_and(|value| value == "1")
}

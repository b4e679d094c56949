//! The log of a server: warnings and errors of this project's crates, a line each on standard error.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

use crate::failure::printable;

struct Stderr;

static STDERR: Stderr = Stderr;

/// Installs the log for the process.
pub fn install() {
    // It fails only if there is one already, which is as good.
    if log::set_logger(&STDERR).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_lowercase();
            let line = format!("{level}: {}\n", printable(&record.args().to_string()));
            // If writing fails, there is no way left to report it.
            let _ = anstream::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

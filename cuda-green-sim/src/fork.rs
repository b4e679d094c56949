//! Detection of forked children, in which CUDA does not work.

use std::sync::atomic::{AtomicU32, Ordering};

/// The process in which a driver was initialised; 0 before.
static INITIALISED_IN: AtomicU32 = AtomicU32::new(0);

/// Notes that a driver is initialised in this process.
pub(crate) fn note_initialised() {
    INITIALISED_IN.store(std::process::id(), Ordering::Relaxed);
}

/// Returns whether this is a forked child of a process that had initialised a driver.
///
/// CUDA does not work there, and threads that do not exist in the child may hold the locks. Ask this before taking
/// any of them.
pub(crate) fn was_forked() -> bool {
    let process = INITIALISED_IN.load(Ordering::Relaxed);
    process != 0 && process != std::process::id()
}

//! Figures and events for the facades `metrics`, `serde` and `tracing`.
//!
//! Apart from `library`: `tracing` decides once for all threads of a process whether anybody listens to a place in
//! the code, so the tests run one at a time and beside no others. They also need features that nothing else in the
//! workspace has.

#![allow(clippy::unwrap_used, clippy::panic)] // these are tests

mod memory_export;
mod memory_tracing;
mod models;
mod partition_export;
mod partition_tracing;
mod recorder;
mod subscriber;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps other tests of this process from running until the guard is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

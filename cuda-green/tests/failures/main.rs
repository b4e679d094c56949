//! Driver calls that fail, one test at a time.
//!
//! Apart from `library`: the library keeps what it could not end in one list for the whole process, and the next
//! allocation on any thread tries to end it again. A test that counts what is left must not run beside another.

#![allow(clippy::unwrap_used, clippy::panic)] // these are tests

mod faults;
mod fences;
mod memory;
mod partitions;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps other tests of this process from running until the guard is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

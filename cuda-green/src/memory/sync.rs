//! The locks that the accounting is built on, in one place, so that `tests/memory_loom.rs` can put loom's
//! in their stead.

pub(crate) use std::sync::{Mutex, MutexGuard};

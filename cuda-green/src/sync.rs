//! What the concurrent parts are built on, in one place, so that `tests/seats_loom.rs` and
//! `tests/generations_loom.rs` can put loom's in their stead.

pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

/// Locks a mutex. One that a panic poisoned is locked all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

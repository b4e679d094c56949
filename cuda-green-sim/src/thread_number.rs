//! Numbers of threads that are available until a thread's very end.
//!
//! `std::thread::current` panics in a C library's destructor of a thread key that runs after Rust's own.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

/// A thread's number, which no other thread of the process gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ThreadNumber(u64);

static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// 0 until it was requested. It has no destructor, so it is available until the thread is gone.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

impl ThreadNumber {
    /// Returns the calling thread's number.
    pub(crate) fn current() -> Self {
        if NUMBER.get() == 0 {
            NUMBER.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        Self(NUMBER.get())
    }
}

#[cfg(test)]
mod tests {
    use super::ThreadNumber;

    #[test]
    fn each_thread_has_a_number_of_its_own() {
        let other = std::thread::spawn(ThreadNumber::current).join().unwrap();
        assert_eq!(ThreadNumber::current(), ThreadNumber::current());
        assert_ne!(ThreadNumber::current(), other);
    }
}

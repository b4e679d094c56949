//! Numbers of threads that last to their very end: `std::thread::current` panics where a C library's destructor of a
//! thread's key calls, after Rust's own.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

/// A thread's number, which no other thread of the process gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ThreadNumber(u64);

static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// 0 until it was asked for. Nothing to be dropped, so it is there until the thread is gone.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

impl ThreadNumber {
    /// The calling thread.
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

//! Threads that sleep until there is work, and their waking.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering, fence},
    },
    thread::{self, Thread},
    time::Duration,
};

/// The threads of a pool that sleep.
#[derive(Default)]
pub(crate) struct Sleepers {
    /// The length of `threads`, so that work is handed over without the lock while none sleeps.
    count: AtomicUsize,
    threads: Mutex<Vec<Thread>>,
}

impl Sleepers {
    /// Sleeps until it is woken. `is_needed` looks for work again: what came before this thread was on the list woke
    /// nobody. May return early.
    pub(crate) fn sleep(&self, is_needed: impl FnOnce() -> bool) {
        self.sleep_by(is_needed, thread::park);
    }

    /// As [`sleep`](Self::sleep), but at most this long.
    pub(crate) fn sleep_for(&self, time: Duration, is_needed: impl FnOnce() -> bool) {
        self.sleep_by(is_needed, || thread::park_timeout(time));
    }

    fn sleep_by(&self, is_needed: impl FnOnce() -> bool, park: impl FnOnce()) {
        let me = thread::current();
        {
            let mut threads = self.lock();
            threads.push(me.clone());
            self.count.store(threads.len(), Ordering::Relaxed);
        }
        // With the fence of `wake_one`: either that sees this thread on the list, or this thread sees the work.
        fence(Ordering::SeqCst);
        if !is_needed() {
            park();
        }
        let mut threads = self.lock();
        threads.retain(|thread| thread.id() != me.id());
        self.count.store(threads.len(), Ordering::Relaxed);
    }

    /// Wakes a thread, if one sleeps. Call it after the work can be found.
    #[inline]
    pub(crate) fn wake_one(&self) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) > 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let thread = {
            let mut threads = self.lock();
            let thread = threads.pop();
            self.count.store(threads.len(), Ordering::Relaxed);
            thread
        };
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    /// Wakes all threads.
    pub(crate) fn wake_all(&self) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let threads = {
            let mut threads = self.lock();
            self.count.store(0, Ordering::Relaxed);
            std::mem::take(&mut *threads)
        };
        threads.iter().for_each(Thread::unpark);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

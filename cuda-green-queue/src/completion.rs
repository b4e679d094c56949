//! The place of one result, which one thread writes and one future takes.

use std::{
    cell::UnsafeCell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Waker,
    thread::Thread,
};

use crate::{contain::contain, task::TaskError};

/// Nothing yet, and nobody waits.
const PENDING: u8 = 0;
/// Nothing yet, and `waiter` is to be woken.
const WAITING: u8 = 1;
/// The result is there.
const DONE: u8 = 2;

/// Whoever waits for a result.
pub(crate) enum Waiter {
    Task(Waker),
    Thread(Thread),
}

impl Waiter {
    fn wake(self) {
        match self {
            // Of some runtime, which may panic.
            Self::Task(waker) => contain("a waker", || waker.wake()),
            Self::Thread(thread) => thread.unpark(),
        }
    }
}

/// The place of one result.
pub(crate) struct Completion<O> {
    state: AtomicU8,
    waiter: Mutex<Option<Waiter>>,
    result: UnsafeCell<Option<Result<O, TaskError>>>,
}

// SAFETY: the result is written by one thread before `state` becomes `DONE`, and taken by one thread after it saw that;
// the contracts of `complete` and `take` say so. So it only ever moves from thread to thread.
unsafe impl<O: Send> Sync for Completion<O> {}

impl<O> Default for Completion<O> {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(PENDING),
            waiter: Mutex::new(None),
            result: UnsafeCell::new(None),
        }
    }
}

impl<O> Completion<O> {
    /// Stores the result, and wakes whoever waits. A waker that panics is contained.
    ///
    /// # Safety
    /// It is called once at most.
    pub(crate) unsafe fn complete(&self, result: Result<O, TaskError>) {
        // SAFETY: nobody reads it before the state is `DONE`, and this is the only call, so nobody else writes.
        unsafe { *self.result.get() = Some(result) };
        if self.state.swap(DONE, Ordering::AcqRel) == WAITING {
            let waiter = self
                .waiter
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        }
    }

    /// Returns whether the result is there.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }

    /// Takes the result, if it is there.
    ///
    /// # Safety
    /// No other thread calls this at the same time.
    #[inline]
    pub(crate) unsafe fn take(&self) -> Option<Result<O, TaskError>> {
        if !self.is_done() {
            return None;
        }
        // SAFETY: the state is `DONE`, so it was written before, and nobody else takes it.
        Some(unsafe { (*self.result.get()).take() }.unwrap_or(Err(TaskError::Taken)))
    }

    /// Registers who is to be woken when the result is there, in place of the one before. Returns `false` if the result
    /// is there already: nobody is woken then.
    pub(crate) fn wake_later(&self, waiter: Waiter) -> bool {
        let old = self
            .waiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(waiter);
        drop(old);
        match self
            .state
            .compare_exchange(PENDING, WAITING, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) | Err(WAITING) => !self.is_done(),
            Err(_) => false,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::{Arc, atomic::AtomicUsize};

    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_result_is_there_once_and_wakes_the_last_waiter() {
        let completion = Completion::<u32>::default();
        let wakers = [0, 1].map(|_| Arc::new(Count(AtomicUsize::new(0))));
        for waker in &wakers {
            assert!(completion.wake_later(Waiter::Task(waker.clone().into())));
        }
        // SAFETY: one thread.
        unsafe {
            assert_eq!(completion.take(), None);
            completion.complete(Ok(7));
            assert_eq!(completion.take(), Some(Ok(7)));
            assert_eq!(completion.take(), Some(Err(TaskError::Taken)));
        }
        assert!(!completion.wake_later(Waiter::Thread(std::thread::current())));
        assert_eq!(
            wakers.map(|waker| waker.0.load(Ordering::SeqCst)),
            [0, 1],
            "only the last waiter is woken"
        );
    }

    /// A waker of a runtime that is broken.
    struct Broken;

    impl std::task::Wake for Broken {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }

    #[test]
    fn a_waker_that_panics_is_contained_and_counted() {
        let completion = Completion::<u32>::default();
        assert!(completion.wake_later(Waiter::Task(Arc::new(Broken).into())));
        // SAFETY: one thread.
        unsafe {
            completion.complete(Ok(7));
            assert_eq!(completion.take(), Some(Ok(7)));
        }
        assert_eq!(crate::contain::take_caught(), 1);
        assert_eq!(crate::contain::take_caught(), 0);
    }

    #[test]
    fn no_wake_is_lost_between_threads() {
        for _ in 0..2000 {
            let completion = Arc::new(Completion::<u64>::default());
            let other = completion.clone();
            // SAFETY: the only call.
            let thread = std::thread::spawn(move || unsafe { other.complete(Ok(1)) });
            while completion.wake_later(Waiter::Thread(std::thread::current())) {
                std::thread::park();
            }
            // SAFETY: only this thread takes.
            assert_eq!(unsafe { completion.take() }, Some(Ok(1)));
            thread.join().unwrap();
        }
    }
}

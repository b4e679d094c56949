//! Locks, atomics and reference counts: those of std, or those of loom in tests under `cfg(loom)`.
//!
//! loom runs a test under every interleaving of its threads, so whatever such a test reaches takes its locks from here,
//! and never from [`native`].
//!
//! No lock poisons: what a panicking thread leaves under a lock of this crate is a state to go on with.

#[cfg(all(test, loom))]
use loom::sync as primitives;
#[cfg(not(all(test, loom)))]
use std::sync as primitives;
use std::sync::{PoisonError, TryLockError};

pub(crate) use primitives::{
    Arc, MutexGuard, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

/// Defines a mutex over that of a module. loom's has no `const` constructor.
macro_rules! mutex {
    ($primitives:ident, $($const:ident)?) => {
        /// A lock for one thread at a time.
        #[derive(Debug, Default)]
        pub(crate) struct Mutex<T>($primitives::Mutex<T>);

        impl<T> Mutex<T> {
            pub(crate) $($const)? fn new(value: T) -> Self {
                Self($primitives::Mutex::new(value))
            }

            #[inline]
            pub(crate) fn lock(&self) -> $primitives::MutexGuard<'_, T> {
                self.0.lock().unwrap_or_else(PoisonError::into_inner)
            }

            /// Locks it unless another thread has it.
            #[inline]
            pub(crate) fn try_lock(&self) -> Option<$primitives::MutexGuard<'_, T>> {
                match self.0.try_lock() {
                    Ok(guard) => Some(guard),
                    Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                    Err(TryLockError::WouldBlock) => None,
                }
            }

            pub(crate) fn get_mut(&mut self) -> &mut T {
                self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
            }
        }
    };
}

#[cfg(all(test, loom))]
mutex!(primitives,);
#[cfg(not(all(test, loom)))]
mutex!(primitives, const);

/// A lock for one writer or many readers.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(primitives::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(primitives::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a test under every interleaving of its threads with at most this many preemptions: all interleavings of three
/// threads would take minutes.
#[cfg(all(test, loom))]
pub(crate) fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

/// Locks of std under `cfg(loom)` too: for statics, since a lock of loom's lives no longer than one interleaving, and
/// for waits with a limit, since loom knows no time.
pub(crate) mod native {
    #[cfg(all(test, loom))]
    use std::sync::{self as primitives, TryLockError};
    use std::{
        sync::{self, PoisonError},
        time::Duration,
    };

    #[cfg(all(test, loom))]
    mutex!(primitives, const);
    #[cfg(not(all(test, loom)))]
    pub(crate) use super::Mutex;
    pub(crate) use sync::MutexGuard;

    /// A condition that threads wait for.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(sync::Condvar);

    impl Condvar {
        pub(crate) const fn new() -> Self {
            Self(sync::Condvar::new())
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits until the condition no longer holds, or as long as said.
        pub(crate) fn wait_timeout_while<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            patience: Duration,
            condition: impl FnMut(&mut T) -> bool,
        ) -> MutexGuard<'a, T> {
            let waited = self.0.wait_timeout_while(guard, patience, condition);
            waited.unwrap_or_else(PoisonError::into_inner).0
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

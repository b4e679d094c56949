//! The assignment of a partition's contexts to threads, independent of the type of those contexts.
//!
//! Up to CUDA 13.4 a green context may be current to one thread at a time. The main context stays with the
//! first thread that acquires it, so that this thread needs no atomic exchange to acquire and release it. Other
//! threads get siblings, which are reused.

use std::sync::Arc;

use crate::sync::{AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering};

/// A context that one thread at a time may have current.
pub(crate) struct ThreadContext<T> {
    /// The number of the thread that may make it current, or 0.
    owner: AtomicUsize,
    /// How often that thread has acquired it; written by that thread only. From 13.5 on several threads may have
    /// it at once: then there is no owner, and this counts the uses of all threads.
    use_count: AtomicU32,
    pub(crate) context: T,
}

/// The contexts of one partition: the main one and its siblings. `E` is the type of the events that a hand-off makes
/// them wait for.
pub(crate) struct ThreadContexts<T, E> {
    pub(crate) main: ThreadContext<T>,
    siblings: Mutex<Siblings<T, E>>,
}

struct Siblings<T, E> {
    /// They live as long as the partition, since foreign code may have made streams in them.
    contexts: Vec<Arc<ThreadContext<T>>>,
    /// The events of the last hand-offs, which later siblings have to wait for too.
    awaited: Vec<Arc<E>>,
}

impl<T> ThreadContext<T> {
    /// Makes a context that no thread owns.
    pub(crate) fn new(context: T) -> Self {
        Self {
            owner: AtomicUsize::new(0),
            use_count: AtomicU32::new(0),
            context,
        }
    }

    /// Acquires the context for the calling thread. Returns `false` if another thread owns it.
    #[inline]
    pub(crate) fn acquire(&self, thread: usize) -> bool {
        if self.owner.load(Ordering::Relaxed) != thread
            && self
                .owner
                .compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        // Only the owner writes the count, so this needs no atomic addition.
        self.use_count.store(
            self.use_count.load(Ordering::Relaxed) + 1,
            Ordering::Relaxed,
        );
        true
    }

    /// Undoes one `acquire` of the calling thread, which stays the owner. Returns how often it still has the context.
    #[inline]
    pub(crate) fn release_biased(&self) -> u32 {
        let left = self.use_count.load(Ordering::Relaxed) - 1;
        self.use_count.store(left, Ordering::Release);
        left
    }

    /// Undoes one `acquire` of the calling thread. After the last, any thread may acquire the context.
    pub(crate) fn release(&self) {
        if self.release_biased() == 0 {
            self.owner.store(0, Ordering::Release);
        }
    }

    /// Counts a use of the context where several threads may have it current.
    #[inline]
    pub(crate) fn acquire_shared(&self) {
        self.use_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Undoes one `acquire_shared`.
    #[inline]
    pub(crate) fn release_shared(&self) {
        self.use_count.fetch_sub(1, Ordering::Release);
    }

    /// Returns how often it is current to any thread.
    pub(crate) fn use_count(&self) -> u32 {
        self.use_count.load(Ordering::Acquire)
    }
}

impl<T, E> ThreadContexts<T, E> {
    /// Makes the contexts of a partition, without siblings.
    pub(crate) fn new(main: T) -> Self {
        Self {
            main: ThreadContext::new(main),
            siblings: Mutex::new(Siblings {
                contexts: Vec::new(),
                awaited: Vec::new(),
            }),
        }
    }

    /// Acquires a sibling for this thread: the one that it owns already, an idle one, or one that `make` makes. A new
    /// sibling has to wait for the same events as the others, which `make` is given.
    #[cold]
    pub(crate) fn acquire_sibling<Error>(
        &self,
        thread: usize,
        make: impl FnOnce(&[Arc<E>]) -> Result<T, Error>,
    ) -> Result<Arc<ThreadContext<T>>, Error> {
        // Locked while one is made, so that a hand-off either completes before or includes it.
        let mut siblings = self.siblings();
        let own = siblings
            .contexts
            .iter()
            .find(|sibling| sibling.owner.load(Ordering::Relaxed) == thread);
        if let Some(sibling) = own
            .into_iter()
            .chain(&siblings.contexts)
            .find(|sibling| sibling.acquire(thread))
        {
            return Ok(Arc::clone(sibling));
        }
        let sibling = Arc::new(ThreadContext::new(make(&siblings.awaited)?));
        sibling.acquire(thread);
        siblings.contexts.push(Arc::clone(&sibling));
        Ok(sibling)
    }

    /// Makes siblings until there are `contexts` contexts in all. The lock is released after each, so that a thread
    /// that needs a context meanwhile waits for one at most.
    #[cold]
    pub(crate) fn provision<Error>(
        &self,
        contexts: usize,
        make: impl Fn(&[Arc<E>]) -> Result<T, Error>,
    ) -> Result<(), Error> {
        loop {
            let mut siblings = self.siblings();
            if siblings.contexts.len() >= contexts.saturating_sub(1) {
                return Ok(());
            }
            let sibling = ThreadContext::new(make(&siblings.awaited)?);
            siblings.contexts.push(Arc::new(sibling));
        }
    }

    /// Makes all later work in every context, future siblings included, wait for these events.
    pub(crate) fn hand_off<Error>(
        &self,
        events: &[Arc<E>],
        wait: impl Fn(&T, &E) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut siblings = self.siblings();
        for event in events {
            wait(&self.main.context, event)?;
            for sibling in &siblings.contexts {
                wait(&sibling.context, event)?;
            }
        }
        // An event without another holder belonged to a partition that has ended, and so has its work. An event that
        // was recorded again marks more work, all of it submitted before now, so waiting for it does no harm.
        siblings.awaited.retain(|old| {
            Arc::strong_count(old) > 1 && !events.iter().any(|new| Arc::ptr_eq(old, new))
        });
        siblings.awaited.extend_from_slice(events);
        Ok(())
    }

    /// Calls a function for each context, the main one first, and returns the results.
    pub(crate) fn map<R>(&self, mut action: impl FnMut(&T) -> R) -> Vec<R> {
        let of_main = action(&self.main.context);
        let siblings = self.siblings();
        let of_siblings = siblings
            .contexts
            .iter()
            .map(|sibling| action(&sibling.context));
        std::iter::once(of_main).chain(of_siblings).collect()
    }

    /// Returns how often all of them together are current to any thread.
    pub(crate) fn use_count(&self) -> usize {
        let of_siblings = self
            .siblings()
            .contexts
            .iter()
            .map(|sibling| sibling.use_count())
            .sum::<u32>();
        (self.main.use_count() + of_siblings) as usize
    }

    /// Returns how many contexts there are.
    pub(crate) fn count(&self) -> usize {
        1 + self.siblings().contexts.len()
    }

    fn siblings(&self) -> MutexGuard<'_, Siblings<T, E>> {
        self.siblings.lock()
    }
}

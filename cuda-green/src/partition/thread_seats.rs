//! Which thread may have which of a partition's contexts current, apart from what those contexts are.
//!
//! Up to CUDA 13.4 a green context may be current to one thread at a time. The main seat stays with the
//! first thread that takes it, so that this thread needs no atomic exchange to take and leave it; further
//! threads get siblings, which are used again.

use std::sync::Arc;

use crate::sync::{AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering};

/// A context that one thread at a time may have current.
pub(crate) struct Seat<T> {
    /// The token of the thread that may make it current, or 0.
    owner: AtomicUsize,
    /// How often that thread has it; written by that thread only. From 13.5 on several threads may have
    /// it at once: then there is no owner, and this counts them all.
    depth: AtomicU32,
    pub(crate) context: T,
}

/// The seats of one partition. `E` is what a hand-off makes them wait for.
pub(crate) struct Seats<T, E> {
    pub(crate) main: Seat<T>,
    others: Mutex<Others<T, E>>,
}

struct Others<T, E> {
    /// They live as long as the partition, since foreign code may have made streams in them.
    siblings: Vec<Arc<Seat<T>>>,
    /// What the last hand-offs made all seats wait for, and so must those that come later.
    awaited: Vec<Arc<E>>,
}

impl<T> Seat<T> {
    pub(crate) fn new(context: T) -> Self {
        Self {
            owner: AtomicUsize::new(0),
            depth: AtomicU32::new(0),
            context,
        }
    }

    /// Makes it the calling thread's, if it is no other's.
    #[inline]
    pub(crate) fn take(&self, thread: usize) -> bool {
        if self.owner.load(Ordering::Relaxed) != thread
            && self
                .owner
                .compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        // Only the owner writes the depth, so this needs no atomic addition.
        self.depth
            .store(self.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    }

    /// Undoes one `take` of the calling thread, which keeps the seat for the next time.
    #[inline]
    pub(crate) fn leave_biased(&self) -> u32 {
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Release);
        depth
    }

    /// Undoes one `take` of the calling thread; after the last, any thread may have the seat.
    pub(crate) fn leave(&self) {
        if self.leave_biased() == 0 {
            self.owner.store(0, Ordering::Release);
        }
    }

    /// Counts a thread that has it current, where several may.
    #[inline]
    pub(crate) fn take_shared(&self) {
        self.depth.fetch_add(1, Ordering::Relaxed);
    }

    /// Undoes one `take_shared`.
    #[inline]
    pub(crate) fn leave_shared(&self) {
        self.depth.fetch_sub(1, Ordering::Release);
    }

    /// How often it is current to somebody.
    pub(crate) fn taken(&self) -> u32 {
        self.depth.load(Ordering::Acquire)
    }
}

impl<T, E> Seats<T, E> {
    pub(crate) fn new(main: T) -> Self {
        Self {
            main: Seat::new(main),
            others: Mutex::new(Others {
                siblings: Vec::new(),
                awaited: Vec::new(),
            }),
        }
    }

    /// A sibling for this thread: the one that it has already, an idle one, or one that is made here. That
    /// is to wait for what the others were made to wait for, which `make` is given.
    #[cold]
    pub(crate) fn sibling<Error>(
        &self,
        thread: usize,
        make: impl FnOnce(&[Arc<E>]) -> Result<T, Error>,
    ) -> Result<Arc<Seat<T>>, Error> {
        // Held while one is made: a hand-off comes wholly before, or finds it.
        let mut others = self.others();
        let own = others
            .siblings
            .iter()
            .find(|seat| seat.owner.load(Ordering::Relaxed) == thread);
        if let Some(seat) = own
            .into_iter()
            .chain(&others.siblings)
            .find(|seat| seat.take(thread))
        {
            return Ok(Arc::clone(seat));
        }
        let seat = Arc::new(Seat::new(make(&others.awaited)?));
        seat.take(thread);
        others.siblings.push(Arc::clone(&seat));
        Ok(seat)
    }

    /// Makes siblings until there are so many seats in all. Each is made by itself, so that a thread which comes
    /// meanwhile waits for one at most.
    #[cold]
    pub(crate) fn provide<Error>(
        &self,
        seats: usize,
        make: impl Fn(&[Arc<E>]) -> Result<T, Error>,
    ) -> Result<(), Error> {
        loop {
            let mut others = self.others();
            if others.siblings.len() >= seats.saturating_sub(1) {
                return Ok(());
            }
            let seat = Seat::new(make(&others.awaited)?);
            others.siblings.push(Arc::new(seat));
        }
    }

    /// Makes all later work in every seat wait for these, in those that come later too.
    pub(crate) fn hand_off<Error>(
        &self,
        events: &[Arc<E>],
        wait: impl Fn(&T, &E) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut others = self.others();
        for event in events {
            wait(&self.main.context, event)?;
            for seat in &others.siblings {
                wait(&seat.context, event)?;
            }
        }
        // An event that nobody else holds was of a partition that ended, and so did its work. One that was
        // recorded anew stands for more work, all of it submitted before: waiting for that does no harm.
        others.awaited.retain(|old| {
            Arc::strong_count(old) > 1 && !events.iter().any(|new| Arc::ptr_eq(old, new))
        });
        others.awaited.extend_from_slice(events);
        Ok(())
    }

    /// Does something with the context of each of them.
    pub(crate) fn map<R>(&self, mut action: impl FnMut(&T) -> R) -> Vec<R> {
        let of_main = action(&self.main.context);
        let others = self.others();
        let of_siblings = others.siblings.iter().map(|seat| action(&seat.context));
        std::iter::once(of_main).chain(of_siblings).collect()
    }

    /// How often any of them is current to somebody.
    pub(crate) fn taken(&self) -> usize {
        let siblings = self
            .others()
            .siblings
            .iter()
            .map(|seat| seat.taken())
            .sum::<u32>();
        (self.main.taken() + siblings) as usize
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        1 + self.others().siblings.len()
    }

    fn others(&self) -> MutexGuard<'_, Others<T, E>> {
        self.others.lock()
    }
}

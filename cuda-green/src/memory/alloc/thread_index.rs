//! Thread indices: the shard of every pool that a thread uses, and the operations of it that are timed.
//!
//! As long as no more threads are alive than there are shards, no two threads share one: a thread gets the lowest index
//! that is free, and its end frees it again.

use std::{
    cell::Cell,
    num::NonZero,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
};

/// The most shards: few machines have more cores than this, and each shard takes memory.
const MAX_SHARDS: usize = u64::BITS as usize;

/// The fewest shards: with fewer, threads would wait for each other even on a machine of few cores.
const MIN_SHARDS: usize = 16;

/// One in this many operations is timed: the clock takes about as long as the operation itself.
pub(crate) const SAMPLE: u32 = 64;

/// Returns the number of shards of a pool: one for each core, within bounds.
pub(crate) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let cores = available_parallelism().map_or(1, NonZero::get);
        cores.clamp(MIN_SHARDS, MAX_SHARDS)
    })
}

/// The calling thread's shard, for one operation.
#[derive(Clone, Copy)]
pub(crate) struct CurrentThread {
    /// The index of its shard, below [`count`].
    pub(crate) shard: usize,
    /// Whether to time this operation.
    pub(crate) timed: bool,
}

/// The indices of living threads, one bit for each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

const NONE: u32 = u32::MAX;

struct ThreadState {
    /// [`NONE`] before the first use.
    shard: Cell<u32>,
    /// Whether this thread owns the index alone, by its bit in [`TAKEN`].
    owned: Cell<bool>,
    operations: Cell<u32>,
}

impl Drop for ThreadState {
    fn drop(&mut self) {
        if self.owned.get() {
            TAKEN.fetch_and(!(1 << self.shard.get()), Ordering::Relaxed);
        }
    }
}

thread_local! {
    static THREAD: ThreadState = const {
        ThreadState {
            shard: Cell::new(NONE),
            owned: Cell::new(false),
            operations: Cell::new(0),
        }
    };
}

/// Returns the calling thread's shard, for one operation.
#[inline]
pub(crate) fn current() -> CurrentThread {
    let current = THREAD.try_with(|thread| {
        if thread.shard.get() == NONE {
            assign(thread);
        }
        let operations = thread.operations.get().wrapping_add(1);
        thread.operations.set(operations);
        CurrentThread {
            shard: thread.shard.get() as usize,
            timed: operations.is_multiple_of(SAMPLE),
        }
    });
    // The thread is ending, and this runs in the destructor of another of its variables.
    current.unwrap_or(CurrentThread {
        shard: 0,
        timed: false,
    })
}

/// Gives the thread an index.
#[cold]
fn assign(thread: &ThreadState) {
    let shards = count().min(MAX_SHARDS) as u32;
    let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
        let free = taken.trailing_ones();
        (free < shards).then(|| taken | 1 << free)
    });
    let (number, owned) = match taken {
        Ok(before) => (before.trailing_ones(), true),
        // More threads than shards: they share, each shard as many as the others.
        Err(_) => {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed) % u64::from(shards);
            (next as u32, false)
        }
    };
    thread.shard.set(number);
    thread.owned.set(owned);
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Barrier, Mutex},
    };

    use super::*;

    /// Eight at a time, a hundred in all, which is more than there are indices, beside one that stays. Other tests may
    /// have some.
    #[test]
    fn living_threads_share_no_shard() {
        let own = current().shard;
        for _ in 0..if cfg!(miri) { 2 } else { 12 } {
            let (barrier, seen) = (Barrier::new(8), Mutex::new(BTreeSet::new()));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let shard = current().shard;
                        assert!(shard < count());
                        assert_eq!(current().shard, shard);
                        seen.lock().unwrap().insert(shard);
                        barrier.wait(); // until all have theirs
                    });
                }
            });
            let seen = seen.into_inner().unwrap();
            assert_eq!(seen.len(), 8);
            assert!(!seen.contains(&own));
        }
    }

    #[test]
    fn one_operation_in_64_is_timed() {
        let timed = (0..SAMPLE * 10).filter(|_| current().timed).count();
        assert_eq!(timed, 10);
    }
}

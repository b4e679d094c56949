//! Which of a pool's shards a thread uses, and which of its operations are timed.
//!
//! A shard is a purse with its free blocks, and the seat that buffers count themselves on. As long as no
//! more threads are alive than there are shards, no two threads share one: a thread's number is the lowest
//! that is free, and free again when the thread ends.

use std::{
    cell::Cell,
    num::NonZero,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
};

/// Few machines have more cores than this, and each shard takes memory.
const MOST: usize = u64::BITS as usize;

/// Fewer would make threads wait for each other even where there are few cores.
const FEWEST: usize = 16;

/// One in so many operations is timed: the clock takes about as long as the operation itself.
pub(crate) const SAMPLE: u32 = 64;

/// How many shards a pool has: one for each core, within bounds.
pub(crate) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let cores = available_parallelism().map_or(1, NonZero::get);
        cores.clamp(FEWEST, MOST)
    })
}

/// Where a thread is.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    /// The number of its shard, below the count.
    pub(crate) shard: usize,
    /// Whether this operation is to be timed.
    pub(crate) timed: bool,
}

/// The numbers that living threads have, a bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

const NONE: u32 = u32::MAX;

struct Thread {
    /// [`NONE`] before the first use.
    shard: Cell<u32>,
    /// Whether it is this thread's alone, by its bit in [`TAKEN`].
    owned: Cell<bool>,
    operations: Cell<u32>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.owned.get() {
            TAKEN.fetch_and(!(1 << self.shard.get()), Ordering::Relaxed);
        }
    }
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            shard: Cell::new(NONE),
            owned: Cell::new(false),
            operations: Cell::new(0),
        }
    };
}

/// Where this thread is, for one operation.
#[inline]
pub(crate) fn here() -> Here {
    let here = THREAD.try_with(|thread| {
        if thread.shard.get() == NONE {
            enter(thread);
        }
        let operations = thread.operations.get().wrapping_add(1);
        thread.operations.set(operations);
        Here {
            shard: thread.shard.get() as usize,
            timed: operations.is_multiple_of(SAMPLE),
        }
    });
    // A thread that is ending, in the destructor of another of its variables.
    here.unwrap_or(Here {
        shard: 0,
        timed: false,
    })
}

#[cold]
fn enter(thread: &Thread) {
    let shards = count().min(MOST) as u32;
    let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
        let free = taken.trailing_ones();
        (free < shards).then(|| taken | 1 << free)
    });
    let (number, owned) = match taken {
        Ok(before) => (before.trailing_ones(), true),
        // More threads than shards: they share, one as much as the other.
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

    /// Eight at a time, a hundred in all, which is more than there are numbers, beside one that stays. Other
    /// tests may have some.
    #[test]
    fn living_threads_have_shards_of_their_own() {
        let mine = here().shard;
        for _ in 0..if cfg!(miri) { 2 } else { 12 } {
            let (barrier, seen) = (Barrier::new(8), Mutex::new(BTreeSet::new()));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let shard = here().shard;
                        assert!(shard < count());
                        assert_eq!(here().shard, shard);
                        seen.lock().unwrap().insert(shard);
                        barrier.wait(); // until all have theirs
                    });
                }
            });
            let seen = seen.into_inner().unwrap();
            assert_eq!(seen.len(), 8);
            assert!(!seen.contains(&mine));
        }
    }

    #[test]
    fn one_in_so_many_is_timed() {
        let timed = (0..SAMPLE * 10).filter(|_| here().timed).count();
        assert_eq!(timed, 10);
    }
}

//! What all seats of a pool share: its memory and its account, and what concerns all of its threads.

use std::sync::Arc;

use super::{
    PoolMetrics,
    budget::Account,
    cache::{Cache, Pending},
    core::{Core, wait_for},
    tree::{Purses, lock},
};

/// What is taken out of the threads' caches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gather {
    /// What streams have ended with.
    Ended,
    /// That, and free blocks.
    Free,
    /// Those, and what streams still use: they are waited for.
    All,
}

/// What all seats of a pool share.
pub(crate) struct Inner {
    pub(super) core: Arc<Core>,
    pub(super) account: Account<Cache>,
}

impl Inner {
    pub(super) fn metrics(&self) -> PoolMetrics {
        let mut metrics = PoolMetrics::from(self.account.budget().figures());
        for number in 0..self.account.len() {
            let cache = &self.account.purse(number).kept;
            cache.counts.add_to(&mut metrics);
            let (cached, pending) = cache.bytes();
            metrics.cached += cached;
            metrics.pending += pending;
        }
        let heap = self.core.heap();
        let (free, largest_free) = heap.free();
        metrics.from_driver = heap.from_driver;
        metrics.from_driver_high = heap.from_driver_high;
        metrics.free_from_driver = free + heap.large_free() + self.core.between();
        metrics.largest_free = largest_free;
        metrics
    }

    pub(super) fn take_home(&self, pending: &Pending) {
        self.core.take_home_after(pending);
    }
}

impl Core {
    /// Puts memory of the threads of a pool into the heap. Tells how many free blocks that were, but for those
    /// that the threads of a shard had.
    pub(super) fn gather_from(&self, purses: &Purses<Cache>, what: Gather, shard: usize) -> u64 {
        let mut blocks = 0;
        for (number, purse) in purses.iter().enumerate() {
            let (free, pending) = {
                let cache = &mut lock(&purse.0).kept;
                let pending = match what {
                    Gather::Ended | Gather::Free => cache.settle(),
                    Gather::All => cache.take_pending(),
                };
                let free = match what {
                    Gather::Ended => Vec::new(),
                    Gather::Free | Gather::All => cache.drain(),
                };
                (free, pending)
            };
            if number != shard {
                blocks += free.len() as u64;
            }
            self.merge(free);
            for pending in pending {
                if what == Gather::All {
                    wait_for(&pending);
                }
                self.take_home_after(&pending);
            }
        }
        blocks
    }

    fn take_home_after(&self, pending: &Pending) {
        if let Err(error) = self.take_home(pending.address, pending.home) {
            log::error!("freeing a buffer that a stream had used: {error}");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.gather_from(self.account.purses(), Gather::All, 0);
    }
}

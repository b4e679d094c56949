//! What all seats of a pool share: its memory and its account, and what concerns all of its threads.

use std::sync::Arc;

use super::{
    PoolMetrics,
    budget::Account,
    cache::{Cache, Pending},
    core::{Core, wait_for},
};

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
        metrics.free_from_driver = free + heap.large_free();
        metrics.largest_free = largest_free;
        metrics
    }

    /// Puts the threads' free blocks into the heap, and what streams have ended with.
    pub(crate) fn empty_caches(&self, wait: bool) {
        for number in 0..self.account.len() {
            let (spill, pending) = {
                let cache = &mut self.account.purse(number).kept;
                let pending = if wait {
                    cache.take_pending()
                } else {
                    cache.settle()
                };
                (cache.drain(), pending)
            };
            self.core.take_back(spill);
            for pending in pending {
                if wait {
                    wait_for(&pending);
                }
                self.take_home(&pending);
            }
        }
    }

    pub(super) fn take_home(&self, pending: &Pending) {
        if let Err(error) = self.core.take_home(pending.address, pending.home) {
            log::error!("freeing a buffer that a stream had used: {error}");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.empty_caches(true);
    }
}

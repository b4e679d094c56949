//! What all seats of a pool share: its memory and its account, and what concerns all of its threads.

use std::sync::{Arc, Weak};

use super::{
    PoolMetrics,
    budget::Account,
    cache::{Cache, Pending},
    core::{Core, lock as lock_std},
    tree::{Purses, lock},
};

use crate::sync::Mutex;

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
    /// The pool that this one's limit is within: what this one counted is counted there.
    parent: Option<Arc<Inner>>,
    children: Mutex<Vec<Weak<Inner>>>,
    /// Counted by children that ended.
    ended: Mutex<PoolMetrics>,
}

impl Inner {
    pub(super) fn new(
        core: Arc<Core>,
        account: Account<Cache>,
        parent: Option<&Arc<Inner>>,
    ) -> Arc<Self> {
        let inner = Arc::new(Self {
            core,
            account,
            parent: parent.cloned(),
            children: Mutex::default(),
            ended: Mutex::default(),
        });
        if let Some(parent) = parent {
            let mut children = lock_std(&parent.children);
            children.retain(|child| child.strong_count() > 0);
            children.push(Arc::downgrade(&inner));
        }
        inner
    }

    /// What this pool and its children counted, those that ended too.
    fn counted(&self) -> PoolMetrics {
        let mut counted = *lock_std(&self.ended);
        for number in 0..self.account.len() {
            self.account.purse(number).kept.counts.add_to(&mut counted);
        }
        let children: Vec<Arc<Inner>> = {
            let children = lock_std(&self.children);
            children.iter().filter_map(Weak::upgrade).collect()
        };
        for child in children {
            counted.add_counts(&child.counted());
        }
        counted
    }

    pub(super) fn metrics(&self) -> PoolMetrics {
        let mut metrics = PoolMetrics::from(self.account.budget().figures());
        metrics.add_counts(&self.counted());
        for number in 0..self.account.len() {
            let cache = &self.account.purse(number).kept;
            let (cached, pending) = cache.bytes();
            metrics.cached += cached;
            metrics.pending += pending;
        }
        metrics.pending += self.core.unsettled();
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
                    Gather::Ended | Gather::Free => cache.settle(self.device.driver()),
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
            self.take_home_ended(pending, what);
        }
        blocks
    }

    /// Takes home what streams have ended with; all of it where it is to be waited for. The rest is kept.
    pub(super) fn take_home_ended(&self, pending: Vec<Pending>, what: Gather) {
        if pending.is_empty() {
            return;
        }
        let _allowed = self.device.driver().beside_captures();
        for pending in pending {
            let ended = if what == Gather::All {
                pending.wait().map(|()| true)
            } else {
                pending.is_done()
            };
            match ended {
                Ok(true) => self.take_home_after(&pending),
                Ok(false) => self.keep_unsettled(pending),
                Err(error) => {
                    log::error!("waiting for a freed buffer's last use: {error}");
                    self.keep_unsettled(pending);
                }
            }
        }
    }

    fn take_home_after(&self, pending: &Pending) {
        if let Err(error) = self.take_home(pending.address, pending.home) {
            log::error!("freeing a buffer that a stream had used: {error}");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(parent) = &self.parent {
            lock_std(&parent.ended).add_counts(&self.counted());
        }
        self.core.gather_from(self.account.purses(), Gather::All, 0);
    }
}

//! The state of one pool: its arena, its account, and the figures of the pool and its children.

use std::sync::{Arc, Weak};

use super::{
    arena::{Arena, Reclaim},
    thread_cache::ThreadCache,
};
use crate::{
    memory::{budget::account::Account, observe::PoolMetrics},
    sync::Mutex,
};

/// The state of one pool, shared by its shards.
pub(crate) struct PoolState {
    pub(crate) arena: Arc<Arena>,
    pub(crate) account: Account<ThreadCache>,
    /// The pool whose limit this one's limit is within: what this one counts is counted there, too.
    parent: Option<Arc<PoolState>>,
    children: Mutex<Vec<Weak<PoolState>>>,
    /// The counts of children that have ended.
    ended: Mutex<PoolMetrics>,
}

impl PoolState {
    pub(crate) fn new(
        arena: Arc<Arena>,
        account: Account<ThreadCache>,
        parent: Option<&Arc<PoolState>>,
    ) -> Arc<Self> {
        let state = Arc::new(Self {
            arena,
            account,
            parent: parent.cloned(),
            children: Mutex::default(),
            ended: Mutex::default(),
        });
        if let Some(parent) = parent {
            let mut children = parent.children.lock();
            children.retain(|child| child.strong_count() > 0);
            children.push(Arc::downgrade(&state));
        }
        state
    }

    /// Returns what this pool and its children counted, including those that have ended.
    fn counted(&self) -> PoolMetrics {
        let mut counted = *self.ended.lock();
        for index in 0..self.account.len() {
            self.account
                .shard(index)
                .payload
                .counts
                .add_to(&mut counted);
        }
        let children: Vec<Arc<PoolState>> = {
            let children = self.children.lock();
            children.iter().filter_map(Weak::upgrade).collect()
        };
        for child in children {
            counted.add_counts(&child.counted());
        }
        counted
    }

    pub(crate) fn metrics(&self) -> PoolMetrics {
        let mut metrics = PoolMetrics::from(self.account.limit().figures());
        metrics.add_counts(&self.counted());
        for index in 0..self.account.len() {
            let (cached, pending) = self.account.shard(index).payload.bytes();
            metrics.cached += cached;
            metrics.pending += pending;
        }
        metrics.pending += self.arena.pending_bytes();
        let heap = self.arena.heap();
        metrics.from_driver = heap.from_driver;
        metrics.from_driver_high = heap.from_driver_high;
        metrics.free_from_driver =
            heap.free_bytes() + heap.large_free_bytes() + self.arena.transfer_bytes();
        metrics.largest_free = heap.largest_free();
        metrics
    }
}

impl Drop for PoolState {
    fn drop(&mut self) {
        if let Some(parent) = &self.parent {
            parent.ended.lock().add_counts(&self.counted());
        }
        self.arena
            .reclaim_from(self.account.shards(), Reclaim::All, 0);
    }
}

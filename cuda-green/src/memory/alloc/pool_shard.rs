//! A pool's shard: the fast path of an allocation and of a free, and the steps between it and the arena.
//!
//! The fast path is for a thread that allocates what it freed before: one uncontended lock each way, on memory that no
//! other thread touches, and no call to the driver.

use std::{sync::Arc, time::Instant};

use super::{
    allocation::{Allocation, AllocationKind},
    arena::{Arena, is_out_of_memory},
    pool_state::PoolState,
    thread_cache::ThreadCache,
    thread_index,
};
use crate::{
    error::{Error, Result},
    memory::{
        budget::{
            account::{Account, Limit},
            limit_tree::{AccountShard, LimitExceeded},
        },
        observe::{
            events::{MemoryEvent, emit},
            metrics::Counts,
        },
    },
    stream::Stream,
    sync::MutexGuard,
};

/// Threads together keep at most an eighth of the limit in free blocks; each thread keeps its part of that, within
/// these bounds.
const CACHES_SHARE: u64 = 8;
const CACHE_BOUNDS: (u64, u64) = (64 << 10, 32 << 20);

/// A handle of the pool for the threads of one index, with its own reference count on its own cache lines. If all
/// threads counted their buffers in one place, a pair of allocation and free would take 2.2 µs on 16 threads instead of
/// 0.1 µs (measured on an H200, driver 580).
#[repr(align(128))]
pub(crate) struct PoolShard {
    pub(crate) state: Arc<PoolState>,
    index: usize,
}

/// Whether the thread's cache served an allocation.
enum Lookup {
    Hit,
    Miss,
}

impl PoolShard {
    /// Creates a pool's shards, one for each thread index.
    pub(crate) fn all(
        arena: Arc<Arena>,
        limit: &Limit<ThreadCache>,
        parent: Option<&Arc<PoolState>>,
    ) -> Arc<[Arc<Self>]> {
        let shards = thread_index::count();
        let capacity = limit.figures().limit / CACHES_SHARE / shards as u64;
        let capacity = capacity.clamp(CACHE_BOUNDS.0, CACHE_BOUNDS.1);
        let account = Account::new(limit, (0..shards).map(|_| ThreadCache::new(capacity)));
        arena.register(account.shards());
        let state = PoolState::new(arena, account, parent);
        (0..shards)
            .map(|index| {
                let state = state.clone();
                Arc::new(Self { state, index })
            })
            .collect()
    }

    /// Allocates at least `size` bytes, which must be 1 or more.
    #[inline]
    pub(crate) fn allocate(
        &self,
        size: u64,
        stream: Option<&Stream>,
        timed: bool,
    ) -> Result<Allocation> {
        if timed {
            return self.allocate_timed(size, stream);
        }
        let (allocation, _) = self.allocate_untimed(size, stream)?;
        Ok(allocation)
    }

    #[cold]
    fn allocate_timed(&self, size: u64, stream: Option<&Stream>) -> Result<Allocation> {
        let start = Instant::now();
        let (allocation, lookup) = self.allocate_untimed(size, stream)?;
        if matches!(lookup, Lookup::Hit) {
            let took = start.elapsed();
            self.count(|counts| counts.note_hit(took));
        }
        Ok(allocation)
    }

    #[inline]
    fn allocate_untimed(&self, size: u64, stream: Option<&Stream>) -> Result<(Allocation, Lookup)> {
        let state = &*self.state;
        state.arena.device.driver().check_fault()?;
        let kind = state.arena.kind_for(size);
        let mut account = match state.account.charge(self.index, size) {
            Ok(account) => account,
            Err(exceeded) => return Err(self.refuse(exceeded)),
        };
        let cache = &mut account.payload;
        if stream.is_none()
            && let AllocationKind::Block { class } = kind
            && let Some(address) = cache.pop(class)
        {
            cache.counts.allocations += 1;
            drop(account);
            return Ok((Allocation::unfenced(address, kind), Lookup::Hit));
        }
        self.allocate_slow(account, size, kind, stream)
    }

    #[cold]
    fn refuse(&self, exceeded: LimitExceeded) -> Error {
        self.count(|counts| counts.failures += 1);
        emit(MemoryEvent::Refused(exceeded));
        exceeded.into()
    }

    /// Allocates what the cache has no free block for: freed memory that is free in the stream's order, a block that
    /// streams have finished with, or memory of the arena.
    #[cold]
    fn allocate_slow(
        &self,
        mut account: MutexGuard<'_, AccountShard<ThreadCache>>,
        size: u64,
        kind: AllocationKind,
        stream: Option<&Stream>,
    ) -> Result<(Allocation, Lookup)> {
        let state = &*self.state;
        let start = Instant::now();
        let cache = &mut account.payload;
        if let Some(stream) = stream
            && let Some(pending) = cache.pop_for(kind, stream)
        {
            cache.counts.allocations += 1;
            drop(account);
            return Ok((pending, Lookup::Hit));
        }
        let finished = cache.take_finished(state.arena.device.driver());
        let found = match kind {
            AllocationKind::Block { class } => cache.pop(class),
            AllocationKind::Large { .. } | AllocationKind::Plain { .. } => None,
        };
        if found.is_some() {
            cache.counts.allocations += 1;
        }
        drop(account);
        for freed in &finished {
            state.arena.free_finished(freed);
        }
        if let Some(address) = found {
            return Ok((Allocation::unfenced(address, kind), Lookup::Hit));
        }
        match state.arena.allocate(size, kind, self.index) {
            Ok((address, kind)) => {
                let took = start.elapsed();
                self.count(|counts| counts.note_miss(took));
                Ok((Allocation::unfenced(address, kind), Lookup::Miss))
            }
            Err(error) => Err(self.fail(size, error)),
        }
    }

    /// Refunds an allocation that fits the limits and that the driver refused.
    #[cold]
    fn fail(&self, size: u64, error: Error) -> Error {
        let account = &self.state.account;
        account.refund(self.index, size, |cache| cache.counts.failures += 1);
        if !is_out_of_memory(&error) {
            return error;
        }
        let device = &self.state.arena.device;
        let (free, total) = (device.free_memory().ok(), device.total_memory());
        emit(MemoryEvent::DeviceFull {
            asked: size,
            free,
            total,
        });
        Error::DeviceOutOfMemory {
            asked: size,
            free,
            total,
        }
    }

    /// Frees what [`PoolShard::allocate`] returned, once the fences are reached.
    #[inline]
    pub(crate) fn free(&self, allocation: Allocation, size: u64, timed: bool) -> Result<()> {
        if timed {
            return self.free_timed(allocation, size);
        }
        self.free_untimed(allocation, size)
    }

    #[cold]
    fn free_timed(&self, allocation: Allocation, size: u64) -> Result<()> {
        let start = Instant::now();
        let result = self.free_untimed(allocation, size);
        let took = start.elapsed();
        self.count(|counts| counts.note_free(took));
        result
    }

    #[inline]
    fn free_untimed(&self, allocation: Allocation, size: u64) -> Result<()> {
        if allocation.fences.is_empty()
            && let AllocationKind::Block { class } = allocation.kind
        {
            let spilled = self.state.account.refund(self.index, size, |cache| {
                cache.counts.deallocations += 1;
                cache.push(class, allocation.address)
            });
            if let Some(spilled) = spilled {
                self.state.arena.free_spilled(spilled);
            }
            return Ok(());
        }
        self.free_slow(allocation, size)
    }

    /// Frees what cannot go into the cache's free blocks.
    #[cold]
    fn free_slow(&self, allocation: Allocation, size: u64) -> Result<()> {
        let state = &*self.state;
        if allocation.fences.is_empty() {
            let freed = state.arena.free(allocation.address, allocation.kind);
            state.account.refund(self.index, size, |cache| {
                cache.counts.deallocations += 1;
            });
            return freed;
        }
        let finished = state.account.refund(self.index, size, |cache| {
            cache.counts.deallocations += 1;
            cache.defer(allocation);
            if cache.has_many_pending() {
                cache.take_finished(state.arena.device.driver())
            } else {
                Vec::new()
            }
        });
        for freed in &finished {
            state.arena.free_finished(freed);
        }
        Ok(())
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.state.account.shard(self.index).payload.counts);
    }
}

impl From<LimitExceeded> for Error {
    #[cold]
    fn from(exceeded: LimitExceeded) -> Self {
        Self::OutOfMemory {
            asked: exceeded.asked,
            available: exceeded.available,
            limit: exceeded.limit,
        }
    }
}

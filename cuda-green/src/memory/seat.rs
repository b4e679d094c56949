//! A pool as its buffers see it: where memory is taken and given back, the quick way and the others.
//!
//! Quick is what a thread frees and takes again: one uncontended lock each, on memory that no other thread
//! touches, and no call to the driver.

use std::{sync::Arc, time::Instant};

use cuda_green_sys::{CUdeviceptr, CUresult};

use super::{
    budget::{Account, Budget},
    cache::{Cache, Home, Pending},
    core::Core,
    fence::Fence,
    inner::Inner,
    metrics::Counts,
    shard,
    trace::{Happening, tell},
    tree::{Purse, Refused},
};
use crate::sync::MutexGuard;
use crate::{
    error::{Error, Result},
    stream::Stream,
};

/// Threads keep in free blocks at most an eighth of the limit, all of them together; each within these
/// bounds.
const CACHES_SHARE: u64 = 8;
const CACHE_BOUNDS: (u64, u64) = (64 << 10, 32 << 20);

/// A way to the pool with a reference count of its own, on cache lines of its own: if all threads counted
/// their buffers in one place, that would be the slowest part of an allocation.
#[repr(align(128))]
pub(super) struct Seat {
    pub(super) inner: Arc<Inner>,
    shard: usize,
}

/// Memory that was taken.
pub(super) struct Taken {
    pub(super) address: CUdeviceptr,
    pub(super) home: Home,
    /// Whoever does not work in their stream waits for them.
    pub(super) fences: Vec<Fence>,
}

impl Taken {
    #[inline]
    fn free_for_all(address: CUdeviceptr, home: Home) -> Self {
        let fences = Vec::new();
        Self {
            address,
            home,
            fences,
        }
    }
}

/// Whether the thread had it at hand.
enum Way {
    Hand,
    Elsewhere,
}

impl Seat {
    /// A new pool's seats, one for each shard.
    pub(super) fn all(
        core: Arc<Core>,
        budget: &Budget<Cache>,
        parent: Option<&Arc<Inner>>,
    ) -> Arc<[Arc<Self>]> {
        let shards = shard::count();
        let most = budget.figures().limit / CACHES_SHARE / shards as u64;
        let most = most.clamp(CACHE_BOUNDS.0, CACHE_BOUNDS.1);
        let account = Account::new(budget, (0..shards).map(|_| Cache::new(most)));
        core.join(account.purses());
        let inner = Inner::new(core, account, parent);
        (0..shards)
            .map(|shard| {
                let inner = inner.clone();
                Arc::new(Self { inner, shard })
            })
            .collect()
    }

    /// Memory of at least so many bytes, 1 or more.
    #[inline]
    pub(super) fn take(&self, size: u64, stream: Option<&Stream>, timed: bool) -> Result<Taken> {
        if timed {
            return self.take_timed(size, stream);
        }
        self.take_now(size, stream).map(|(taken, _)| taken)
    }

    #[cold]
    fn take_timed(&self, size: u64, stream: Option<&Stream>) -> Result<Taken> {
        let start = Instant::now();
        let (taken, way) = self.take_now(size, stream)?;
        if matches!(way, Way::Hand) {
            let took = start.elapsed();
            self.count(|counts| counts.note_hit(took));
        }
        Ok(taken)
    }

    #[inline]
    fn take_now(&self, size: u64, stream: Option<&Stream>) -> Result<(Taken, Way)> {
        let inner = &*self.inner;
        inner.core.device.driver().check_fault()?;
        let home = inner.core.home(size);
        let mut purse = match inner.account.take(self.shard, size) {
            Ok(purse) => purse,
            Err(refused) => return Err(self.refuse(refused)),
        };
        let cache = &mut purse.kept;
        if stream.is_none()
            && let Home::Block { class } = home
            && let Some(address) = cache.pop(class)
        {
            cache.counts.allocations += 1;
            drop(purse);
            return Ok((Taken::free_for_all(address, home), Way::Hand));
        }
        self.take_elsewhere(purse, size, home, stream)
    }

    #[cold]
    fn refuse(&self, refused: Refused) -> Error {
        self.count(|counts| counts.failures += 1);
        tell(Happening::Refused(refused));
        refused.into()
    }

    /// What the thread does not have at hand.
    #[cold]
    fn take_elsewhere(
        &self,
        mut purse: MutexGuard<'_, Purse<Cache>>,
        size: u64,
        home: Home,
        stream: Option<&Stream>,
    ) -> Result<(Taken, Way)> {
        let inner = &*self.inner;
        let start = Instant::now();
        let cache = &mut purse.kept;
        if let Some(stream) = stream
            && let Some(pending) = cache.pop_for(home, stream)
        {
            cache.counts.allocations += 1;
            drop(purse);
            let taken = Taken {
                address: pending.address,
                home,
                fences: pending.fences,
            };
            return Ok((taken, Way::Hand));
        }
        let settled = cache.settle(inner.core.device.driver());
        let found = match home {
            Home::Block { class } => cache.pop(class),
            Home::Large { .. } | Home::Plain { .. } => None,
        };
        if found.is_some() {
            cache.counts.allocations += 1;
        }
        drop(purse);
        for pending in &settled {
            inner.take_home(pending);
        }
        if let Some(address) = found {
            return Ok((Taken::free_for_all(address, home), Way::Hand));
        }
        match inner.core.supply(size, home, self.shard) {
            Ok((address, home)) => {
                let took = start.elapsed();
                self.count(|counts| counts.note_miss(took));
                Ok((Taken::free_for_all(address, home), Way::Elsewhere))
            }
            Err(error) => Err(self.failed(size, error)),
        }
    }

    /// The driver refused what the limits would allow.
    #[cold]
    fn failed(&self, size: u64, error: Error) -> Error {
        let account = &self.inner.account;
        account.give(self.shard, size, |cache| cache.counts.failures += 1);
        match error {
            Error::Driver {
                code: CUresult::CUDA_ERROR_OUT_OF_MEMORY,
                ..
            } => {
                let device = &self.inner.core.device;
                let (free, total) = (device.free_memory().ok(), device.total_memory());
                tell(Happening::DeviceFull {
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
            error => error,
        }
    }

    /// Frees what [`Seat::take`] gave, once the fences are done.
    #[inline]
    pub(super) fn free(&self, taken: Taken, size: u64, timed: bool) -> Result<()> {
        if timed {
            return self.free_timed(taken, size);
        }
        self.free_now(taken, size)
    }

    #[cold]
    fn free_timed(&self, taken: Taken, size: u64) -> Result<()> {
        let start = Instant::now();
        let result = self.free_now(taken, size);
        let took = start.elapsed();
        self.count(|counts| counts.note_free(took));
        result
    }

    #[inline]
    fn free_now(&self, taken: Taken, size: u64) -> Result<()> {
        if taken.fences.is_empty()
            && let Home::Block { class } = taken.home
        {
            let spill = self.inner.account.give(self.shard, size, |cache| {
                cache.counts.deallocations += 1;
                cache.push(class, taken.address)
            });
            if let Some(spill) = spill {
                self.inner.core.take_over(spill);
            }
            return Ok(());
        }
        self.free_elsewhere(taken, size)
    }

    /// What the thread cannot have at hand.
    #[cold]
    fn free_elsewhere(&self, taken: Taken, size: u64) -> Result<()> {
        let inner = &*self.inner;
        let Taken {
            address,
            home,
            fences,
        } = taken;
        if fences.is_empty() {
            let freed = inner.core.take_home(address, home);
            inner.account.give(self.shard, size, |cache| {
                cache.counts.deallocations += 1;
            });
            return freed;
        }
        let pending = Pending {
            address,
            home,
            fences,
        };
        let settled = inner.account.give(self.shard, size, |cache| {
            cache.counts.deallocations += 1;
            cache.defer(pending);
            if cache.is_impatient() {
                cache.settle(inner.core.device.driver())
            } else {
                Vec::new()
            }
        });
        for pending in &settled {
            inner.take_home(pending);
        }
        Ok(())
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.inner.account.purse(self.shard).kept.counts);
    }
}

impl From<Refused> for Error {
    #[cold]
    fn from(refused: Refused) -> Self {
        Self::OutOfMemory {
            asked: refused.asked,
            available: refused.available,
            limit: refused.limit,
        }
    }
}

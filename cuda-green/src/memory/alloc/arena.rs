//! The arena of a family of pools: memory obtained from the driver, the heap that tracks its free parts, and the slow
//! path of an allocation.
//!
//! A miss in a thread's cache ends here: [`Arena::allocate`] looks into the transfer cache and the heap, then reclaims
//! what threads have free, then asks the driver for more, within an allowance over the pool's limit.
//!
//! Lock order: `growth`, then `heap`. Never take either while holding a shard of an account, or a shard while holding
//! `heap`.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use cuda_green_sys::CUresult;

use super::{
    allocation::{Allocation, AllocationKind},
    arena_end::EndedArena,
    heap::{Heap, Idle},
    size_class::{class_bytes, class_of},
    source::{Source, allocate_plain, free_plain},
    thread_cache::{FreeBlocks, ThreadCache},
    transfer_cache::TransferCache,
};
use crate::{
    device::{CudaDevice, retry_ends},
    error::{Error, Result},
    memory::{
        budget::limit_tree::AccountShards,
        observe::{
            device_usage::DeviceUsage,
            events::{MemoryEvent, emit},
        },
    },
    size::Bytes,
    sync::{Mutex, MutexGuard},
};

const MIB: u64 = 1 << 20;

/// A slab is at most a sixteenth of the limit, within these bounds.
const SLAB: (u64, u64) = (2 * MIB, 64 * MIB);

/// Large allocations are rounded up to this, the driver's own page size.
const LARGE_STEP: u64 = 2 * MIB;

/// The transfer cache keeps at most this part of the limit, within these bounds.
const TRANSFER_SHARE: u64 = 64;
const TRANSFER: (u64, u64) = (64 << 10, 128 * MIB);

/// After a reclaim took N blocks from other threads, the next one waits for this many times N misses. Until then the
/// arena grows, within its allowance. A thread misses once more for each block that was reclaimed from it, so this keeps
/// such misses a small part of all. (Without it, a third of all
/// allocations of 16 threads on an H200 missed.) A thread that runs alone always reclaims its own blocks.
const MISSES_PER_RECLAIMED: u64 = 16;

/// How much memory to reclaim from threads' caches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaim {
    /// Freed memory that streams have finished with.
    Finished,
    /// That, and free blocks.
    Free,
    /// Those, and freed memory that streams still use: they are waited for.
    All,
}

pub(crate) struct Arena {
    pub(crate) device: CudaDevice,
    source: Source,
    /// Past this many bytes from the driver, idle memory goes back before more is taken.
    allowance: u64,
    /// The size of the largest slabs.
    slab: u64,
    /// Free blocks between the threads' caches and the heap.
    transfer: TransferCache,
    heap: Mutex<Heap>,
    /// Held while the driver is asked for more, so that other threads wait for that instead of asking too.
    growth: Mutex<Growth>,
    /// Allocations that no thread's cache could serve.
    misses: AtomicU64,
    /// Freed memory that streams may still use and that could not be waited for, and what the driver did not take back.
    pending: Mutex<Vec<Allocation>>,
    /// The account shards of the family's pools, with their caches. Shards, not pools: a pool that ends during a reclaim
    /// must refund its bytes at once, without a lock of the arena.
    members: Mutex<Vec<Weak<AccountShards<ThreadCache>>>>,
    pub(crate) device_usage: DeviceUsage,
}

#[derive(Default)]
struct Growth {
    /// From this number of misses on, it pays to reclaim the threads' free blocks again.
    reclaim_after: u64,
}

/// Bytes of idle memory that the driver took back, and bytes that it refused to take.
#[derive(Clone, Copy, Default)]
struct Returned {
    taken: u64,
    refused: u64,
}

impl Arena {
    pub(crate) fn new(device: &CudaDevice, limit: u64) -> Result<Self> {
        let slab = 1 << (limit / 16).clamp(SLAB.0, SLAB.1).ilog2();
        let transfer = (limit / TRANSFER_SHARE).clamp(TRANSFER.0, TRANSFER.1);
        Ok(Self {
            device: device.clone(),
            source: Source::create(device, limit)?,
            allowance: limit.saturating_add(limit / 8).saturating_add(SLAB.0),
            slab,
            transfer: TransferCache::new(transfer, largest_block(slab)),
            heap: Mutex::default(),
            growth: Mutex::default(),
            misses: AtomicU64::new(0),
            pending: Mutex::default(),
            members: Mutex::default(),
            device_usage: DeviceUsage::default(),
        })
    }

    /// Adds a pool's account, whose caches are reclaimed with those of the others.
    pub(crate) fn register(&self, shards: &Arc<AccountShards<ThreadCache>>) {
        let mut members = self.members.lock();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(shards));
    }

    /// Returns the accounts of the family with no lock held: a pool may end meanwhile, and its shards then go with the
    /// last of these.
    fn members(&self) -> Vec<Arc<AccountShards<ThreadCache>>> {
        let members = self.members.lock();
        members.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock()
    }

    /// Returns the kind of an allocation of this size: a block if it is at most an eighth of the largest slab, else
    /// large.
    #[inline]
    pub(crate) fn kind_for(&self, size: u64) -> AllocationKind {
        if size <= largest_block(self.slab) {
            return AllocationKind::Block {
                class: class_of(size),
            };
        }
        // Up to eight steps, a size class is the finer rounding.
        let len = if size <= 8 * LARGE_STEP {
            class_bytes(class_of(size))
        } else {
            size.checked_next_multiple_of(LARGE_STEP).unwrap_or(size)
        };
        AllocationKind::Large { len }
    }
}

/// Allocation: the slow path.
impl Arena {
    /// Allocates memory that the thread's cache does not have: from free memory, or from the driver. `shard` is the
    /// thread's.
    #[cold]
    pub(crate) fn allocate(
        &self,
        size: u64,
        kind: AllocationKind,
        shard: usize,
    ) -> Result<(u64, AllocationKind)> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        if let Some(found) = self.allocate_free(kind) {
            return Ok(found);
        }
        let before = self.heap().growths;
        let allocated = self.allocate_growing(size, kind, shard)?;
        if self.heap().growths != before {
            self.device_usage.refresh_if_watched(&self.device);
        }
        Ok(allocated)
    }

    /// Allocates after making room step by step, the cheapest step first.
    fn allocate_growing(
        &self,
        size: u64,
        kind: AllocationKind,
        shard: usize,
    ) -> Result<(u64, AllocationKind)> {
        retry_ends();
        let mut growth = self.growth.lock();
        if let Some(found) = self.allocate_free(kind) {
            return Ok(found);
        }
        let misses = self.misses.load(Ordering::Relaxed);
        if misses < growth.reclaim_after {
            self.reclaim(Reclaim::Finished, shard);
        } else {
            let blocks = self.reclaim(Reclaim::Free, shard);
            growth.reclaim_after = misses.saturating_add(MISSES_PER_RECLAIMED * blocks);
        }
        if let Some(found) = self.allocate_free(kind) {
            return Ok(found);
        }
        let wanted = match kind {
            AllocationKind::Block { .. } => self.next_slab(),
            AllocationKind::Large { len } | AllocationKind::Plain { len } => len,
        };
        // Idle allocations of other sizes go to the driver's pool first, which can merge several into one.
        let idle = self.heap().take_idle_large(wanted);
        self.return_to_driver(idle);
        if self.heap().from_driver.saturating_add(wanted) > self.allowance {
            self.reclaim(Reclaim::All, shard);
            if let Some(found) = self.allocate_free(kind) {
                return Ok(found);
            }
            self.return_idle();
        }
        match self.grow(kind) {
            Err(error) if is_out_of_memory(&error) => {}
            result => return result,
        }
        self.reclaim(Reclaim::All, shard);
        if let Some(found) = self.allocate_free(kind) {
            return Ok(found);
        }
        self.return_idle();
        self.source.trim(&self.device)?;
        match self.grow(kind) {
            Err(error) if is_out_of_memory(&error) => {}
            result => return result,
        }
        // Exactly the size asked for, from outside the driver's pool: the device has no room for a slab, or the pool's
        // own backstop refuses although our exact accounting says that this fits.
        let address = allocate_plain(&self.device, to_usize(size)?)?;
        self.heap().record_growth(size);
        self.emit_growth(size);
        log::warn!(
            "allocated {} outside the driver's pool, which could not grow",
            Bytes(size)
        );
        emit(MemoryEvent::OutsidePool { bytes: size });
        Ok((address, AllocationKind::Plain { len: size }))
    }

    /// Allocates from memory that is free already.
    fn allocate_free(&self, kind: AllocationKind) -> Option<(u64, AllocationKind)> {
        match kind {
            AllocationKind::Block { class } => {
                let transferred = self.transfer.pop(class);
                let address = transferred.or_else(|| self.heap().allocate(class_bytes(class)))?;
                Some((address, kind))
            }
            AllocationKind::Large { len } => {
                let (address, len) = self.heap().allocate_large(len)?;
                Some((address, AllocationKind::Large { len }))
            }
            AllocationKind::Plain { .. } => None,
        }
    }

    /// Allocates from memory that the driver gives for it: a new slab, or the allocation itself.
    fn grow(&self, kind: AllocationKind) -> Result<(u64, AllocationKind)> {
        match kind {
            AllocationKind::Block { class } => {
                let slab = self.next_slab();
                let address = self.source.allocate(&self.device, to_usize(slab)?)?;
                let block = {
                    let mut heap = self.heap();
                    heap.add_slab(address, slab);
                    heap.allocate(class_bytes(class))
                };
                self.emit_growth(slab);
                // The heap cannot fail here: a new slab always has room for a block of this class.
                Ok((block.unwrap_or(address), kind))
            }
            AllocationKind::Large { len } | AllocationKind::Plain { len } => {
                let address = self.source.allocate(&self.device, to_usize(len)?)?;
                self.heap().record_growth(len);
                self.emit_growth(len);
                Ok((address, AllocationKind::Large { len }))
            }
        }
    }

    fn emit_growth(&self, bytes: u64) {
        let now = self.heap().from_driver;
        emit(MemoryEvent::TakenFromDriver { bytes, now });
    }

    /// Returns the size of the next slab. Slabs grow with the pool, so that little use does not take much memory. None
    /// is smaller than a quarter of the largest slab, so each has room for two of the largest blocks.
    fn next_slab(&self) -> u64 {
        let eighth = (self.heap().from_driver / 8).max(1);
        (1 << eighth.ilog2()).clamp(self.slab / 4, self.slab)
    }
}

/// Freeing, and reclaiming what threads have free.
impl Arena {
    /// Frees memory that no stream uses any more. Memory that the driver refuses to take back is kept and offered again
    /// later.
    pub(crate) fn free(&self, address: u64, kind: AllocationKind) -> Result<()> {
        if let AllocationKind::Plain { .. } = kind
            && let Err(error) = free_plain(&self.device, address)
        {
            self.add_pending(Allocation::unfenced(address, kind));
            return Err(error);
        }
        self.heap().free_allocation(address, kind);
        Ok(())
    }

    /// Frees memory that no stream uses any more, and logs an error.
    pub(crate) fn free_finished(&self, allocation: &Allocation) {
        if let Err(error) = self.free(allocation.address, allocation.kind) {
            log::error!("freeing a buffer that a stream had used: {error}");
        }
    }

    /// Frees blocks that exceed a thread's cache: into the heap, or into the transfer cache while another thread holds
    /// the heap.
    #[cold]
    pub(crate) fn free_spilled(&self, mut blocks: FreeBlocks) {
        if let Some(mut heap) = self.heap.try_lock() {
            return heap.free_blocks(blocks);
        }
        blocks.retain(|(address, len)| !self.transfer.push(class_of(*len), *address));
        self.free_blocks(blocks);
    }

    fn free_blocks(&self, blocks: FreeBlocks) {
        if !blocks.is_empty() {
            self.heap().free_blocks(blocks);
        }
    }

    /// Keeps memory whose last use could not be waited for. It is not handed out.
    fn add_pending(&self, allocation: Allocation) {
        self.pending.lock().push(allocation);
    }

    /// Reclaims memory from all threads, and from the transfer cache, into the heap. Returns the number of free blocks
    /// reclaimed, excluding those of the threads of `shard`.
    pub(crate) fn reclaim(&self, what: Reclaim, shard: usize) -> u64 {
        let pending = std::mem::take(&mut *self.pending.lock());
        self.free_pending(pending, what);
        let members = self.members();
        let reclaimed = members
            .iter()
            .map(|shards| self.reclaim_from(shards, what, shard));
        let of_threads: u64 = reclaimed.sum();
        if what == Reclaim::Finished {
            return of_threads;
        }
        let transferred = self.transfer.drain();
        let blocks = of_threads + transferred.len() as u64;
        self.free_blocks(transferred);
        blocks
    }

    /// Reclaims memory from the threads of one pool. Returns the number of free blocks reclaimed, excluding those of
    /// the threads of `shard`.
    pub(crate) fn reclaim_from(
        &self,
        shards: &AccountShards<ThreadCache>,
        what: Reclaim,
        shard: usize,
    ) -> u64 {
        let mut blocks = 0;
        for (index, account) in shards.iter().enumerate() {
            let (free, pending) = {
                let cache = &mut account.0.lock().payload;
                let pending = match what {
                    Reclaim::Finished | Reclaim::Free => cache.take_finished(self.device.driver()),
                    Reclaim::All => cache.take_pending(),
                };
                let free = match what {
                    Reclaim::Finished => Vec::new(),
                    Reclaim::Free | Reclaim::All => cache.drain(),
                };
                (free, pending)
            };
            if index != shard {
                blocks += free.len() as u64;
            }
            self.free_blocks(free);
            self.free_pending(pending, what);
        }
        blocks
    }

    /// Frees memory that streams have finished with; all of it for [`Reclaim::All`], which waits. The rest is kept.
    fn free_pending(&self, pending: Vec<Allocation>, what: Reclaim) {
        if pending.is_empty() {
            return;
        }
        let _allowed = self.device.driver().beside_captures();
        for allocation in pending {
            let finished = if what == Reclaim::All {
                allocation.wait().map(|()| true)
            } else {
                allocation.is_done()
            };
            match finished {
                Ok(true) => self.free_finished(&allocation),
                Ok(false) => self.add_pending(allocation),
                Err(error) => {
                    log::error!("waiting for a freed buffer's last use: {error}");
                    self.add_pending(allocation);
                }
            }
        }
    }
}

/// Returning memory to the driver.
impl Arena {
    /// Returns slabs and large allocations that are wholly free to the driver, whose pool keeps them.
    fn return_idle(&self) -> Returned {
        let idle = self.heap().take_idle();
        self.return_to_driver(idle)
    }

    /// Returns idle memory to the driver. What it refuses goes back into the heap.
    fn return_to_driver(&self, idle: Vec<Idle>) -> Returned {
        let mut returned = Returned::default();
        for idle in idle {
            let (address, len) = idle.range();
            match self.source.free(&self.device, address) {
                Ok(()) => {
                    self.heap().record_return(len);
                    returned.taken += len;
                }
                Err(error) => {
                    log::error!("giving {len} idle bytes back: {error}");
                    self.heap().restore_idle(idle);
                    returned.refused += len;
                }
            }
        }
        if returned.taken > 0 {
            let now = self.heap().from_driver;
            emit(MemoryEvent::ReturnedToDriver {
                bytes: returned.taken,
                now,
            });
        }
        returned
    }

    /// Waits for streams that still use freed buffers, returns all idle memory to the system, and checks that the
    /// driver counts it as free. Returns the number of bytes.
    pub(crate) fn trim(&self) -> Result<u64> {
        retry_ends();
        let _growth = self.growth.lock();
        self.reclaim(Reclaim::All, 0);
        // No other thread takes memory from the driver meanwhile, so its count falls by what it gets.
        let before = self.source.used(&self.device)?;
        let Returned { taken, refused } = self.return_idle();
        self.source.trim(&self.device)?;
        let after = self.source.used(&self.device)?;
        let kept = match (before, after) {
            (Some(before), Some(after)) => taken.saturating_sub(before.saturating_sub(after)),
            _ => 0,
        };
        if kept + refused > 0 {
            return Err(Error::MemoryNotBack {
                bytes: kept + refused,
            });
        }
        Ok(taken)
    }
}

/// Figures.
impl Arena {
    /// Returns the bytes in the transfer cache.
    pub(crate) fn transfer_bytes(&self) -> u64 {
        self.transfer.bytes()
    }

    /// Returns the bytes of freed memory that is kept because its last use could not be waited for.
    pub(crate) fn pending_bytes(&self) -> u64 {
        let pending = self.pending.lock();
        pending.iter().map(|freed| freed.kind.bytes()).sum()
    }

    /// Returns the bytes from the driver that no buffer owns, including those that are idle in the driver's pool.
    pub(crate) fn idle_bytes(&self) -> Result<u64> {
        let members = self.members();
        let shards = members.iter().flat_map(|shards| shards.iter());
        let cached: u64 = shards
            .map(|shard| {
                let (free, pending) = shard.0.lock().payload.bytes();
                free + pending
            })
            .sum();
        let spare = self.source.spare(&self.device)?;
        let heap = self.heap();
        let free = heap.free_bytes() + heap.large_free_bytes();
        Ok(cached + self.pending_bytes() + self.transfer.bytes() + free + spare)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Every buffer keeps the arena alive, and every cache was emptied when its pool ended: all memory is idle now
        // except what could not be waited for.
        self.free_blocks(self.transfer.drain());
        let mut ended = EndedArena {
            device: self.device.clone(),
            source: std::mem::replace(&mut self.source, Source::Plain),
            heap: std::mem::take(&mut *self.heap()),
            pending: std::mem::take(&mut *self.pending.lock()),
        };
        self.device.end("a memory pool", move || ended.end());
    }
}

/// Returns the size of the largest block that is cut from slabs of at most this size.
pub(crate) fn largest_block(slab: u64) -> u64 {
    slab / 8
}

/// Returns whether the driver had no more memory.
pub(super) fn is_out_of_memory(error: &Error) -> bool {
    matches!(
        error,
        Error::Driver {
            code: CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            ..
        }
    )
}

fn to_usize(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::InvalidArgument {
        name: "size",
        value: bytes.to_string(),
        reason: "more than this platform can address",
    })
}

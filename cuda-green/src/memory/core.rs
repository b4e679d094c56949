//! What pools of one family share: the driver's memory, and the heap of what of it is free. How it grows is in
//! `supply`.
//!
//! Locks: `growing`, then `heap`. Neither is asked for by who holds a purse, and no purse by who holds the
//! heap.

use std::sync::{Arc, Weak, atomic::AtomicU64};

use super::{
    backing::{Backing, free_plain},
    cache::{Cache, Home, Pending, Spill},
    classes::{class_bytes, class_of},
    depot::Depot,
    heap::{Heap, Idle},
    inner::Gather,
    remains::Remains,
    trace::{Happening, tell},
    tree::{Purses, lock as lock_purse},
    whole_device::WholeDevice,
};
use crate::{
    device::{CudaDevice, retry_ends},
    error::{Error, Result},
    sync::{Mutex, MutexGuard},
};

const MIB: u64 = 1 << 20;

/// Slabs are a sixteenth of the limit, within these bounds.
const SLAB: (u64, u64) = (2 * MIB, 64 * MIB);

/// The driver is asked for large allocations in steps of this, its own page size.
const LARGE_STEP: u64 = 2 * MIB;

/// So much of the limit is kept unmerged for all threads where they wait for each other, within these bounds.
const DEPOT_SHARE: u64 = 64;
const DEPOT: (u64, u64) = (64 << 10, 128 * MIB);

pub(crate) struct Core {
    pub(crate) device: CudaDevice,
    pub(super) backing: Backing,
    /// Beyond this, what is idle goes back to the driver before more is taken.
    pub(super) allowance: u64,
    pub(super) slab: u64,
    /// Between the caches and the heap.
    pub(super) depot: Depot,
    heap: Mutex<Heap>,
    /// Held by who asks the driver for more, so that others wait for that instead of asking too.
    pub(super) growing: Mutex<Growing>,
    /// Allocations that no cache could serve.
    pub(super) misses: AtomicU64,
    /// Memory that streams may still use and that could not be waited for, and what the driver did not take back.
    unsettled: Mutex<Vec<Pending>>,
    /// What the pools of the family have at hand. Not the pools: one that ends meanwhile gives its bytes back at
    /// once, and not with a lock held here.
    members: Mutex<Vec<Weak<Purses<Cache>>>>,
    pub(crate) whole_device: WholeDevice,
}

/// Bytes of idle memory that the driver took, and bytes that it refused to take.
#[derive(Clone, Copy, Default)]
pub(super) struct GivenBack {
    pub(super) taken: u64,
    pub(super) refused: u64,
}

#[derive(Default)]
pub(super) struct Growing {
    /// After so many misses, it pays to gather the threads' free blocks again.
    pub(super) gather_after: u64,
}

impl Core {
    pub(crate) fn new(device: &CudaDevice, limit: u64) -> Result<Self> {
        let slab = 1 << (limit / 16).clamp(SLAB.0, SLAB.1).ilog2();
        let depot = (limit / DEPOT_SHARE).clamp(DEPOT.0, DEPOT.1);
        Ok(Self {
            device: device.clone(),
            backing: Backing::create(device, limit)?,
            allowance: limit.saturating_add(limit / 8).saturating_add(SLAB.0),
            slab,
            depot: Depot::new(depot, largest_block(slab)),
            heap: Mutex::default(),
            growing: Mutex::default(),
            misses: AtomicU64::new(0),
            unsettled: Mutex::default(),
            members: Mutex::default(),
            whole_device: WholeDevice::default(),
        })
    }

    pub(crate) fn join(&self, purses: &Arc<Purses<Cache>>) {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(purses));
    }

    /// What blocks of this size are: parts of slabs up to an eighth of one, else of their own.
    #[inline]
    pub(crate) fn home(&self, size: u64) -> Home {
        if size <= largest_block(self.slab) {
            return Home::Block {
                class: class_of(size),
            };
        }
        // Up to eight steps, a class is the finer rounding.
        let len = if size <= 8 * LARGE_STEP {
            class_bytes(class_of(size))
        } else {
            size.checked_next_multiple_of(LARGE_STEP).unwrap_or(size)
        };
        Home::Large { len }
    }

    /// Bytes that are free for all threads without being in the heap.
    pub(crate) fn between(&self) -> u64 {
        self.depot.bytes()
    }

    pub(crate) fn heap(&self) -> MutexGuard<'_, Heap> {
        lock(&self.heap)
    }

    /// Takes what a thread's cache has no room for: into the heap, or where others are at it, into the depot.
    #[cold]
    pub(crate) fn take_over(&self, mut spill: Spill) {
        if let Some(heap) = self.heap.try_lock() {
            return merge(heap, spill);
        }
        spill.retain(|(address, len)| !self.depot.push(class_of(*len), *address));
        self.merge(spill);
    }

    /// Puts blocks into the heap.
    pub(crate) fn merge(&self, blocks: Spill) {
        if !blocks.is_empty() {
            merge(self.heap(), blocks);
        }
    }

    /// Takes back memory that no stream uses any more. What the driver refuses to take back is kept, and offered
    /// again later.
    pub(crate) fn take_home(&self, address: u64, home: Home) -> Result<()> {
        match home {
            Home::Block { class } => self.heap().give(address, class_bytes(class)),
            Home::Large { len } => self.heap().give_large(address, len),
            Home::Plain { len } => {
                if let Err(error) = free_plain(&self.device, address) {
                    self.keep_unsettled(Pending {
                        address,
                        home,
                        fences: Vec::new(),
                    });
                    return Err(error);
                }
                self.heap().went_back(len);
            }
        }
        Ok(())
    }

    /// Keeps memory whose last use could not be waited for. It is not handed out.
    pub(super) fn keep_unsettled(&self, pending: Pending) {
        lock(&self.unsettled).push(pending);
    }

    /// Bytes that are kept like this.
    pub(super) fn unsettled(&self) -> u64 {
        let unsettled = lock(&self.unsettled);
        unsettled.iter().map(|pending| pending.home.bytes()).sum()
    }

    /// Bytes from the driver that no buffer has, those in the driver's pool counted in.
    pub(super) fn idle(&self) -> Result<u64> {
        let members = self.members();
        let purses = members.iter().flat_map(|purses| purses.iter());
        let cached: u64 = purses
            .map(|purse| {
                let (free, pending) = lock_purse(&purse.0).kept.bytes();
                free + pending
            })
            .sum();
        let spare = self.backing.spare(&self.device)?;
        let heap = self.heap();
        let free = heap.free().0 + heap.large_free();
        Ok(cached + self.unsettled() + self.depot.bytes() + free + spare)
    }

    /// The pools' purses, no lock held: a pool may end meanwhile, and its purses then go with the last of these.
    fn members(&self) -> Vec<Arc<Purses<Cache>>> {
        let members = lock(&self.members);
        members.iter().filter_map(Weak::upgrade).collect()
    }

    /// Puts memory of every thread, and what is between them, into the heap. Tells how many free blocks that
    /// were, but for those that the threads of a shard had.
    pub(super) fn gather(&self, what: Gather, shard: usize) -> u64 {
        let unsettled = std::mem::take(&mut *lock(&self.unsettled));
        self.take_home_ended(unsettled, what);
        let members = self.members();
        let gathered = members
            .iter()
            .map(|purses| self.gather_from(purses, what, shard));
        let of_threads: u64 = gathered.sum();
        if what == Gather::Ended {
            return of_threads;
        }
        let between = self.depot.drain();
        let blocks = of_threads + between.len() as u64;
        self.merge(between);
        blocks
    }

    /// Gives the driver what is wholly idle; it stays in the driver's pool.
    pub(super) fn give_back_idle(&self) -> GivenBack {
        let idle = self.heap().idle();
        self.give_back(idle)
    }

    /// Gives the driver idle memory. What it refuses is in the heap again.
    pub(super) fn give_back(&self, idle: Vec<Idle>) -> GivenBack {
        let mut given = GivenBack::default();
        for idle in idle {
            let (address, len) = idle.range();
            match self.backing.free(&self.device, address) {
                Ok(()) => {
                    self.heap().went_back(len);
                    given.taken += len;
                }
                Err(error) => {
                    log::error!("giving {len} idle bytes back: {error}");
                    self.heap().put_back(idle);
                    given.refused += len;
                }
            }
        }
        if given.taken > 0 {
            let now = self.heap().from_driver;
            tell(Happening::ToDriver {
                bytes: given.taken,
                now,
            });
        }
        given
    }

    /// Waits for what streams still use of freed buffers, gives the system all that is idle, and sees that
    /// the driver counts it as free.
    pub(crate) fn trim(&self) -> Result<u64> {
        retry_ends();
        let _growing = lock(&self.growing);
        self.gather(Gather::All, 0);
        // Nobody takes from the driver meanwhile, so its count falls by what it gets.
        let before = self.backing.used(&self.device)?;
        let GivenBack { taken, refused } = self.give_back_idle();
        self.backing.trim(&self.device)?;
        let after = self.backing.used(&self.device)?;
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

impl Drop for Core {
    fn drop(&mut self) {
        // Every buffer holds it, and every cache was emptied when its pool went: all is idle now, but for what could
        // not be waited for.
        self.merge(self.depot.drain());
        let mut remains = Remains {
            device: self.device.clone(),
            backing: std::mem::replace(&mut self.backing, Backing::Plain),
            heap: std::mem::take(&mut *self.heap()),
            pending: std::mem::take(&mut *lock(&self.unsettled)),
        };
        self.device.end("a memory pool", move || remains.end());
    }
}

fn merge(mut heap: MutexGuard<'_, Heap>, blocks: Spill) {
    for (address, len) in blocks {
        heap.give(address, len);
    }
}

/// The most that is cut from slabs of at most a size.
pub(super) fn largest_block(slab: u64) -> u64 {
    slab / 8
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

//! What pools of one family share: the driver's memory, and the heap of what of it is free.
//!
//! Locks: `growing`, then `heap`. Neither is asked for by who holds a purse, and no purse by who holds the
//! heap.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

use cuda_green_sys::CUresult;

use super::{
    backing::{Backing, allocate_plain, free_plain},
    cache::{Home, Pending, Spill},
    classes::{class_bytes, class_of},
    depot::Depot,
    heap::Heap,
    inner::{Gather, Inner},
    trace::{Happening, tell},
    whole_device::WholeDevice,
};
use crate::{CudaDevice, Error, Result};

const MIB: u64 = 1 << 20;

/// Slabs are a sixteenth of the limit, within these bounds.
const SLAB: (u64, u64) = (2 * MIB, 64 * MIB);

/// The driver is asked for large allocations in steps of this, its own page size.
const LARGE_STEP: u64 = 2 * MIB;

/// So much of the limit is kept unmerged for all threads where they wait for each other, within these bounds.
const DEPOT_SHARE: u64 = 64;
const DEPOT: (u64, u64) = (64 << 10, 128 * MIB);

/// A thread must come here again for each free block that was taken from it. So that this stays a small part
/// of all misses, the threads' free blocks are gathered only after so many misses for each block that others
/// than the gathering thread had the last time; in between, the driver is asked for more, within the
/// allowance. A thread alone always gathers what it has.
const MISSES_PER_GATHERED: u64 = 16;

pub(crate) struct Core {
    pub(crate) device: CudaDevice,
    backing: Backing,
    /// Beyond this, what is idle goes back to the driver before more is taken.
    allowance: u64,
    slab: u64,
    /// Between the caches and the heap.
    depot: Depot,
    heap: Mutex<Heap>,
    /// Held by who asks the driver for more, so that others wait for that instead of asking too.
    growing: Mutex<Growing>,
    /// Allocations that no cache could serve.
    misses: AtomicU64,
    members: Mutex<Vec<Weak<Inner>>>,
    pub(crate) whole_device: WholeDevice,
}

#[derive(Default)]
struct Growing {
    /// After so many misses, it pays to gather the threads' free blocks again.
    gather_after: u64,
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
            members: Mutex::default(),
            whole_device: WholeDevice::default(),
        })
    }

    pub(crate) fn join(&self, pool: &Arc<Inner>) {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(pool));
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

    /// Memory for a thread of a shard that is in no thread's cache: from the heap, or from the driver.
    #[cold]
    pub(crate) fn supply(&self, size: u64, home: Home, shard: usize) -> Result<(u64, Home)> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        if let Some(found) = self.find(home) {
            return Ok(found);
        }
        let before = self.heap().growths;
        let supplied = self.supply_from_driver(size, home, shard)?;
        if self.heap().growths != before {
            self.whole_device.look(&self.device);
        }
        Ok(supplied)
    }

    fn supply_from_driver(&self, size: u64, home: Home, shard: usize) -> Result<(u64, Home)> {
        let mut growing = lock(&self.growing);
        if let Some(found) = self.find(home) {
            return Ok(found);
        }
        // What streams have ended with, and the threads' free blocks if that pays, before more is taken.
        let misses = self.misses.load(Ordering::Relaxed);
        if misses < growing.gather_after {
            self.gather(Gather::Ended, shard);
        } else {
            let blocks = self.gather(Gather::Free, shard);
            growing.gather_after = misses.saturating_add(MISSES_PER_GATHERED * blocks);
        }
        if let Some(found) = self.find(home) {
            return Ok(found);
        }
        let wanted = match home {
            Home::Block { .. } => self.next_slab(),
            Home::Large { len } | Home::Plain { len } => len,
        };
        // Idle allocations of other sizes go to the driver's pool first, which can make one of several.
        let idle = self.heap().idle_large(wanted);
        self.give_back(idle);
        if self.heap().from_driver.saturating_add(wanted) > self.allowance {
            self.gather(Gather::All, shard);
            if let Some(found) = self.find(home) {
                return Ok(found);
            }
            self.give_back_idle();
        }
        match self.grow(home) {
            Err(error) if is_out_of_memory(&error) => {}
            result => return result,
        }
        self.gather(Gather::All, shard);
        if let Some(found) = self.find(home) {
            return Ok(found);
        }
        self.give_back_idle();
        self.backing.trim(&self.device)?;
        match self.grow(home) {
            Err(error) if is_out_of_memory(&error) => {}
            result => return result,
        }
        // Exactly what is asked for: where no slab is to be had, and past the backstop that the driver
        // keeps, since our own accounting has said that this fits.
        let address = allocate_plain(&self.device, to_usize(size)?)?;
        self.heap().given(size);
        self.tell_growth(size);
        Ok((address, Home::Plain { len: size }))
    }

    fn find(&self, home: Home) -> Option<(u64, Home)> {
        match home {
            Home::Block { class } => {
                let at_hand = self.depot.pop(class);
                let address = at_hand.or_else(|| self.heap().take(class_bytes(class)))?;
                Some((address, home))
            }
            Home::Large { len } => {
                let (address, len) = self.heap().take_large(len)?;
                Some((address, Home::Large { len }))
            }
            Home::Plain { .. } => None,
        }
    }

    fn grow(&self, home: Home) -> Result<(u64, Home)> {
        match home {
            Home::Block { class } => {
                let slab = self.next_slab();
                let address = self.backing.allocate(&self.device, to_usize(slab)?)?;
                let block = {
                    let mut heap = self.heap();
                    heap.add_slab(address, slab);
                    heap.take(class_bytes(class))
                };
                self.tell_growth(slab);
                // The slab's own start, if its eighth were not in it: it always is.
                Ok((block.unwrap_or(address), home))
            }
            Home::Large { len } | Home::Plain { len } => {
                let address = self.backing.allocate(&self.device, to_usize(len)?)?;
                self.heap().given(len);
                self.tell_growth(len);
                Ok((address, Home::Large { len }))
            }
        }
    }

    fn tell_growth(&self, bytes: u64) {
        let now = self.heap().from_driver;
        tell(Happening::FromDriver { bytes, now });
    }

    /// Slabs grow with the pool, so that little use does not take much memory. None is smaller than a
    /// quarter of the largest, and the largest block is an eighth of that.
    fn next_slab(&self) -> u64 {
        let eighth = (self.heap().from_driver / 8).max(1);
        (1 << eighth.ilog2()).clamp(self.slab / 4, self.slab)
    }

    /// Takes what a thread's cache has no room for: into the heap, or where others are at it, into the depot.
    #[cold]
    pub(crate) fn take_over(&self, mut spill: Spill) {
        if let Ok(heap) = self.heap.try_lock() {
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

    /// Takes back memory that no stream uses any more.
    pub(crate) fn take_home(&self, address: u64, home: Home) -> Result<()> {
        match home {
            Home::Block { class } => self.heap().give(address, class_bytes(class)),
            Home::Large { len } => self.heap().give_large(address, len),
            Home::Plain { len } => {
                self.heap().went_back(len);
                return free_plain(&self.device, address);
            }
        }
        Ok(())
    }

    /// Puts memory of every thread, and what is between them, into the heap. Tells how many free blocks that
    /// were, but for those that the threads of a shard had.
    fn gather(&self, what: Gather, shard: usize) -> u64 {
        let members: Vec<Arc<Inner>> = {
            let members = lock(&self.members);
            members.iter().filter_map(Weak::upgrade).collect()
        };
        let gathered = members.iter().map(|member| member.gather(what, shard));
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
    fn give_back_idle(&self) -> u64 {
        let idle = self.heap().idle();
        self.give_back(idle)
    }

    fn give_back(&self, idle: Vec<(u64, u64)>) -> u64 {
        let mut sum = 0;
        for (address, len) in idle {
            // Also where the driver refuses: the memory is the driver's then.
            if let Err(error) = self.backing.free(&self.device, address) {
                log::error!("giving {len} idle bytes back: {error}");
            }
            self.heap().went_back(len);
            sum += len;
        }
        if sum > 0 {
            let now = self.heap().from_driver;
            tell(Happening::ToDriver { bytes: sum, now });
        }
        sum
    }

    /// Waits for what streams still use of freed buffers, gives the system all that is idle, and sees that
    /// the driver counts it as free.
    pub(crate) fn trim(&self) -> Result<u64> {
        let _growing = lock(&self.growing);
        self.gather(Gather::All, 0);
        // Nobody takes from the driver meanwhile, so its count falls by what it gets.
        let before = self.backing.used(&self.device)?;
        let given = self.give_back_idle();
        self.backing.trim(&self.device)?;
        let after = self.backing.used(&self.device)?;
        if let (Some(before), Some(after)) = (before, after)
            && before.saturating_sub(after) < given
        {
            return Err(Error::MemoryNotBack {
                bytes: given - before.saturating_sub(after),
            });
        }
        Ok(given)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Every buffer holds it, and every cache was emptied when its pool went: all is idle now.
        self.merge(self.depot.drain());
        self.give_back_idle();
        let left = self.heap().from_driver;
        if left > 0 {
            log::error!("{left} bytes of a memory pool were lost");
        }
        self.backing.destroy(&self.device);
    }
}

fn merge(mut heap: MutexGuard<'_, Heap>, blocks: Spill) {
    for (address, len) in blocks {
        heap.give(address, len);
    }
}

/// Waits for streams, and says whether their uses have ended.
pub(crate) fn wait_for(pending: &Pending) -> bool {
    let ended = pending.fences.iter().try_for_each(|fence| fence.wait());
    if let Err(error) = &ended {
        log::error!("waiting for a freed buffer's last use: {error}");
    }
    ended.is_ok()
}

/// The most that is cut from slabs of at most a size.
fn largest_block(slab: u64) -> u64 {
    slab / 8
}

fn is_out_of_memory(error: &Error) -> bool {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

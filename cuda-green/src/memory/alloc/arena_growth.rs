//! Where an allocation's memory comes from that its thread has not at hand: from what is free, from what other
//! threads have free, or from the driver.

use std::sync::atomic::Ordering;

use cuda_green_sys::CUresult;

use super::{
    arena::{Core, lock},
    pool_state::Gather,
    size_class::class_bytes,
    source::allocate_plain,
    thread_cache::Home,
};
use crate::{
    device::retry_ends,
    error::{Error, Result},
    memory::observe::events::{MemoryEvent, emit},
    size::Bytes,
};

/// A thread must come here again for each free block that was taken from it. So that this stays a small part
/// of all misses, the threads' free blocks are gathered only after so many misses for each block that others
/// than the gathering thread had the last time; in between, the driver is asked for more, within the
/// allowance. A thread alone always gathers what it has.
const MISSES_PER_GATHERED: u64 = 16;

impl Core {
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
        retry_ends();
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
        log::warn!(
            "{} are from outside of the driver's pool, which could not grow",
            Bytes(size)
        );
        emit(MemoryEvent::OutsidePool { bytes: size });
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
        emit(MemoryEvent::TakenFromDriver { bytes, now });
    }

    /// Slabs grow with the pool, so that little use does not take much memory. None is smaller than a
    /// quarter of the largest, and the largest block is an eighth of that.
    fn next_slab(&self) -> u64 {
        let eighth = (self.heap().from_driver / 8).max(1);
        (1 << eighth.ilog2()).clamp(self.slab / 4, self.slab)
    }
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

//! Single numbers in memory: loaded, stored and updated atomically.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Fault, FaultKind, Memory, contents::Place, mapped::Access};

/// A number of 4 or 8 bytes.
pub(crate) trait Word: Copy + Default {
    const BYTES: u64;

    /// Loads with acquire order.
    ///
    /// # Safety
    /// `at` is aligned and valid for reads.
    unsafe fn load(at: *mut u8) -> Self;

    /// Stores with release order.
    ///
    /// # Safety
    /// `at` is aligned and valid for writes.
    unsafe fn store(at: *mut u8, value: Self);

    /// Calls `bytes` with its bytes, and returns the number that they are afterwards.
    fn with_bytes<E>(self, bytes: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E>;
}

macro_rules! words {
    ($($word:ty, $atomic:ty);+) => {$(
        impl Word for $word {
            const BYTES: u64 = size_of::<Self>() as u64;

            unsafe fn load(at: *mut u8) -> Self {
                // SAFETY: the caller's promise; that only atomic accesses are concurrent is the client's
                // business, as with a real driver.
                unsafe { <$atomic>::from_ptr(at.cast()) }.load(Ordering::Acquire)
            }

            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: as in `load`.
                unsafe { <$atomic>::from_ptr(at.cast()) }.store(value, Ordering::Release);
            }

            fn with_bytes<E>(
                self,
                bytes: impl FnOnce(&mut [u8]) -> Result<(), E>,
            ) -> Result<Self, E> {
                let mut own = self.to_ne_bytes();
                bytes(&mut own)?;
                Ok(Self::from_ne_bytes(own))
            }
        }
    )+};
}

words!(u32, AtomicU32; u64, AtomicU64);

impl Memory {
    /// Returns the pointer to a number of the host's memory; `None` if it is in device memory.
    fn host_word<W: Word>(&self, address: u64, access: Access) -> Result<Option<*mut u8>, Fault> {
        if !address.is_multiple_of(W::BYTES) {
            return Err(FaultKind::Misaligned.at(address, W::BYTES));
        }
        let places = self.places(address, W::BYTES, access)?;
        Ok(match places.first() {
            Some((Place::Host { at }, _)) => Some(*at),
            _ => None,
        })
    }

    /// Loads a number.
    pub(crate) fn load<W: Word>(&self, address: u64) -> Result<W, Fault> {
        match self.host_word::<W>(address, Access::Read)? {
            // SAFETY: aligned, since it has the address that was checked, and in a pinned block, which
            // lives until it leaves the map.
            Some(at) => Ok(unsafe { W::load(at) }),
            None => W::default().with_bytes(|bytes| self.read(address, bytes)),
        }
    }

    /// Stores a number if it is in the host's memory, and returns whether it is.
    pub(crate) fn store_to_host<W: Word>(&self, address: u64, value: W) -> Result<bool, Fault> {
        let at = self.host_word::<W>(address, Access::Write)?;
        if let Some(at) = at {
            // SAFETY: as in `load`.
            unsafe { W::store(at, value) };
        }
        Ok(at.is_some())
    }

    /// Updates a number in device memory, and returns the previous one.
    pub(crate) fn update<W: Word>(
        &mut self,
        address: u64,
        change: impl FnOnce(W) -> W,
    ) -> Result<W, Fault> {
        if self.host_word::<W>(address, Access::Write)?.is_some() {
            return Err(FaultKind::HostUpdate.at(address, W::BYTES));
        }
        let before: W = W::default().with_bytes(|bytes| self.read(address, bytes))?;
        change(before).with_bytes(|bytes| self.write(address, bytes))?;
        Ok(before)
    }
}

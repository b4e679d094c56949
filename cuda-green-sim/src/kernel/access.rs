//! A kernel's access to memory.

use std::sync::atomic::{self, Ordering};

use super::Launch;
use crate::memory::{Fault, FaultKind, Memory, Word};

impl Launch<'_> {
    /// Reads device memory, or pinned host memory.
    ///
    /// Words of pinned memory that the host stores to meanwhile are for [`load_u32`](Self::load_u32) and
    /// [`load_u64`](Self::load_u64).
    ///
    /// # Errors
    /// [`Fault`] if it is not allocated, which also fails the launch.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Fault> {
        let len = to.len() as u64;
        self.checked(address, len, || self.memory.write().read(address, to))
    }

    /// Writes device memory, or pinned host memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Fault> {
        let len = from.len() as u64;
        self.checked(address, len, || self.memory.write().write(address, from))
    }

    /// Loads a 32-bit number from device memory, or from pinned host memory, with acquire order. It is a real atomic
    /// load of the host.
    ///
    /// # Errors
    /// [`Fault`] if it is not allocated or not aligned, which also fails the launch.
    pub fn load_u32(&self, address: u64) -> Result<u32, Fault> {
        self.load(address)
    }

    /// Loads a 64-bit number, as [`load_u32`](Self::load_u32) does.
    ///
    /// # Errors
    /// As [`load_u32`](Self::load_u32).
    pub fn load_u64(&self, address: u64) -> Result<u64, Fault> {
        self.load(address)
    }

    /// Stores a 32-bit number to device memory, or to pinned host memory, with release order. It is a real atomic
    /// store of the host.
    ///
    /// # Errors
    /// As [`load_u32`](Self::load_u32).
    pub fn store_u32(&self, address: u64, value: u32) -> Result<(), Fault> {
        self.store(address, value)
    }

    /// Stores a 64-bit number, as [`store_u32`](Self::store_u32) does.
    ///
    /// # Errors
    /// As [`load_u32`](Self::load_u32).
    pub fn store_u64(&self, address: u64, value: u64) -> Result<(), Fault> {
        self.store(address, value)
    }

    /// Orders the accesses before it before those after it, for this thread, as `__threadfence_system` does.
    pub fn fence(&self) {
        atomic::fence(Ordering::SeqCst);
    }

    /// Adds to a 32-bit number in device memory, wrapping, and returns the previous number. The addition is atomic
    /// among launches.
    ///
    /// # Errors
    /// [`Fault`] if it is not allocated, not aligned, or memory of the host ([`FaultKind::HostUpdate`]): over PCIe a
    /// GPU's update of a number is not atomic for the host. It also fails the launch.
    pub fn atomic_add_u32(&self, address: u64, value: u32) -> Result<u32, Fault> {
        self.update(address, |before: u32| before.wrapping_add(value))
    }

    /// Adds to a 64-bit number, as [`atomic_add_u32`](Self::atomic_add_u32) does.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_add_u64(&self, address: u64, value: u64) -> Result<u64, Fault> {
        self.update(address, |before: u64| before.wrapping_add(value))
    }

    /// Raises a 64-bit number in device memory to `value` where it is lower, and returns the previous number.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_max_u64(&self, address: u64, value: u64) -> Result<u64, Fault> {
        self.update(address, |before: u64| before.max(value))
    }

    /// Sets the bits of `value` in a 32-bit number in device memory, and returns the previous number.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_or_u32(&self, address: u64, value: u32) -> Result<u32, Fault> {
        self.update(address, |before: u32| before | value)
    }

    /// Clears the bits that are not in `value` in a 32-bit number in device memory, and returns the previous number.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_and_u32(&self, address: u64, value: u32) -> Result<u32, Fault> {
        self.update(address, |before: u32| before & value)
    }

    /// Replaces a 32-bit number in device memory if it is `current`, and returns the previous number.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_cas_u32(&self, address: u64, current: u32, new: u32) -> Result<u32, Fault> {
        self.update(
            address,
            |before| if before == current { new } else { before },
        )
    }

    /// Replaces a 64-bit number in device memory if it is `current`, and returns the previous number.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_cas_u64(&self, address: u64, current: u64, new: u64) -> Result<u64, Fault> {
        self.update(
            address,
            |before| if before == current { new } else { before },
        )
    }

    /// Replaces a 32-bit number in device memory, and returns the previous number.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_exchange_u32(&self, address: u64, value: u32) -> Result<u32, Fault> {
        self.update(address, |_: u32| value)
    }

    /// Replaces a 64-bit number in device memory, and returns the previous number.
    ///
    /// # Errors
    /// As [`atomic_add_u32`](Self::atomic_add_u32).
    pub fn atomic_exchange_u64(&self, address: u64, value: u64) -> Result<u64, Fault> {
        self.update(address, |_: u64| value)
    }

    /// Returns whether the kernel was stopped: its driver or its context has ended, its device is lost, or the driver
    /// has a persistent fault. Every access to memory fails then ([`FaultKind::Stopped`]), and what the kernel does has
    /// no consequence any more. A kernel that waits for something other than memory must ask this.
    pub fn is_stopped(&self) -> bool {
        self.stopped
            .is_some_and(|stopped| stopped.load(Ordering::Relaxed))
    }

    fn load<W: Word>(&self, address: u64) -> Result<W, Fault> {
        self.checked(address, W::BYTES, || self.memory.read().load(address))
    }

    fn store<W: Word>(&self, address: u64, value: W) -> Result<(), Fault> {
        self.checked(address, W::BYTES, || {
            // The read lock is enough for the host's memory, so that kernels that wait for it do not hold others up.
            if self.memory.read().store_to_host(address, value)? {
                return Ok(());
            }
            self.memory.write().update(address, |_| value).map(drop)
        })
    }

    fn update<W: Word>(&self, address: u64, change: impl FnOnce(W) -> W) -> Result<W, Fault> {
        self.checked(address, W::BYTES, || {
            self.memory.write().update(address, change)
        })
    }

    /// Adds to a number in any memory and at any address, as the crate's own kernels may: nobody else accesses it
    /// during the launch.
    pub(super) fn add_anywhere(&self, address: u64, value: u32) -> Result<(), Fault> {
        let add = |memory: &mut Memory| {
            let mut bytes = [0; 4];
            memory.read(address, &mut bytes)?;
            let sum = u32::from_ne_bytes(bytes).wrapping_add(value);
            memory.write(address, &sum.to_ne_bytes())
        };
        self.checked(address, 4, || add(&mut self.memory.write()))
    }

    /// Makes an access, unless the kernel was stopped, and notes the first one that failed.
    fn checked<T>(
        &self,
        address: u64,
        len: u64,
        access: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let stopped = FaultKind::Stopped.at(address, len);
        if self.is_stopped() {
            return Err(stopped);
        }
        access().map_err(|fault| {
            // Its memory may have ended with its context, which is no fault of its own.
            if self.is_stopped() {
                return stopped;
            }
            let _ = self.fault.set(fault);
            fault
        })
    }
}

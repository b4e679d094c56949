//! Memory as kernels of the simulator access it, by device addresses.

use std::sync::atomic::{AtomicBool, Ordering};

use cuda_green::sim::{Fault, Launch};

use super::memory::{Local, Shared};

/// The memory that a launch of the simulator accesses. An access that fails fails the launch too; it loads zero, and
/// [`has_failed`](Self::has_failed) says so, so that loops can end.
#[derive(Debug)]
pub(crate) struct SimMemory<'a> {
    launch: &'a Launch<'a>,
    failed: AtomicBool,
}

impl<'a> SimMemory<'a> {
    pub(crate) fn new(launch: &'a Launch<'a>) -> Self {
        Self {
            launch,
            failed: AtomicBool::new(false),
        }
    }

    /// Returns whether an access failed, or the kernel was stopped.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.launch.is_stopped()
    }

    fn note<T: Default>(&self, result: Result<T, Fault>) -> T {
        result.unwrap_or_else(|_| {
            self.failed.store(true, Ordering::Relaxed);
            T::default()
        })
    }
}

impl Shared for SimMemory<'_> {
    fn load(&self, at: u64) -> u64 {
        self.note(self.launch.load_u64(at))
    }

    fn load_acquire(&self, at: u64) -> u64 {
        self.load(at)
    }

    fn store(&self, at: u64, value: u64) {
        self.note(self.launch.store_u64(at, value));
    }

    fn store_release(&self, at: u64, value: u64) {
        self.store(at, value);
    }

    fn read_word(&self, at: u64) -> u64 {
        self.load(at)
    }

    fn write_word(&self, at: u64, value: u64) {
        self.store(at, value);
    }
}

impl Local for SimMemory<'_> {
    fn get(&self, at: u64) -> u64 {
        self.load(at)
    }

    fn set(&self, at: u64, value: u64) {
        self.store(at, value);
    }

    fn add(&self, at: u64, value: u64) -> u64 {
        self.note(self.launch.atomic_add_u64(at, value))
    }

    fn get32(&self, at: u64) -> u32 {
        self.note(self.launch.load_u32(at))
    }

    fn set32_release(&self, at: u64, value: u32) {
        self.note(self.launch.store_u32(at, value));
    }

    fn exchange32(&self, at: u64, value: u32) -> u32 {
        self.note(self.launch.atomic_exchange_u32(at, value))
    }

    fn add32(&self, at: u64, value: u32) -> u32 {
        self.note(self.launch.atomic_add_u32(at, value))
    }

    fn or32(&self, at: u64, bits: u32) -> u32 {
        self.note(self.launch.atomic_or_u32(at, bits))
    }

    fn replace32(&self, at: u64, expected: u32, value: u32) -> bool {
        self.note(self.launch.atomic_cas_u32(at, expected, value)) == expected
    }
}

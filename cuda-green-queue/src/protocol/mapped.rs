//! Real memory: accesses by the atomics of std at offsets from a base.

use std::{
    ptr::NonNull,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use super::memory::{Local, Shared};

/// Memory that this process shares with a GPU or with other threads, by offsets: pinned host memory.
///
/// All accesses are atomic, those of payloads too: a kernel may write at any time whatever the protocol says, and then
/// the bytes are wrong, but the behaviour is defined. An access outside of the memory does nothing and loads zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    base: NonNull<u8>,
    bytes: u64,
}

// SAFETY: all accesses are atomic, and whoever made the value answers for the memory's life.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Accesses the memory at an address.
    ///
    /// # Safety
    /// The memory must be aligned to 8 bytes, be valid for reads and writes of that many bytes as long as this value or
    /// a copy of it is used, and be accessed by other code of this process with atomics alone.
    pub(crate) unsafe fn new(base: NonNull<u8>, bytes: u64) -> Self {
        debug_assert!(base.as_ptr().addr().is_multiple_of(8));
        Self { base, bytes }
    }

    #[inline]
    fn pointer<const WIDTH: u64>(&self, at: u64) -> Option<*mut u8> {
        let inside = at.is_multiple_of(WIDTH) && at < self.bytes && self.bytes - at >= WIDTH;
        debug_assert!(inside, "offset {at} of {}", self.bytes);
        // SAFETY: the offset lies within the memory, whose size fits into an `isize`, as that of any allocation.
        inside.then(|| unsafe { self.base.as_ptr().add(at as usize) })
    }

    #[inline]
    fn word(&self, at: u64) -> Option<&AtomicU64> {
        let pointer = self.pointer::<8>(at)?;
        // SAFETY: `new`'s caller answers for the memory, and `pointer` checked bounds and alignment.
        Some(unsafe { AtomicU64::from_ptr(pointer.cast()) })
    }

    #[inline]
    fn half_word(&self, at: u64) -> Option<&AtomicU32> {
        let pointer = self.pointer::<4>(at)?;
        // SAFETY: as in `word`.
        Some(unsafe { AtomicU32::from_ptr(pointer.cast()) })
    }
}

impl Shared for Mapped {
    #[inline]
    fn load(&self, at: u64) -> u64 {
        self.word(at).map_or(0, |word| word.load(Relaxed))
    }

    #[inline]
    fn load_acquire(&self, at: u64) -> u64 {
        self.word(at).map_or(0, |word| word.load(Acquire))
    }

    #[inline]
    fn store(&self, at: u64, value: u64) {
        if let Some(word) = self.word(at) {
            word.store(value, Relaxed);
        }
    }

    #[inline]
    fn store_release(&self, at: u64, value: u64) {
        if let Some(word) = self.word(at) {
            word.store(value, Release);
        }
    }

    #[inline]
    fn read_word(&self, at: u64) -> u64 {
        self.load(at)
    }

    #[inline]
    fn write_word(&self, at: u64, value: u64) {
        self.store(at, value);
    }
}

/// Memory of this process that no device accesses: the state of rings that CPU threads fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Private(Mapped);

impl Private {
    /// Accesses memory that only CPU threads access.
    pub(crate) fn new(memory: Mapped) -> Self {
        Self(memory)
    }
}

impl Local for Private {
    #[inline]
    fn get(&self, at: u64) -> u64 {
        self.0.load(at)
    }

    #[inline]
    fn set(&self, at: u64, value: u64) {
        self.0.store(at, value);
    }

    #[inline]
    fn add(&self, at: u64, value: u64) -> u64 {
        self.0
            .word(at)
            .map_or(0, |word| word.fetch_add(value, AcqRel))
    }

    #[inline]
    fn get32(&self, at: u64) -> u32 {
        self.0.half_word(at).map_or(0, |word| word.load(Relaxed))
    }

    #[inline]
    fn set32_release(&self, at: u64, value: u32) {
        if let Some(word) = self.0.half_word(at) {
            word.store(value, Release);
        }
    }

    #[inline]
    fn exchange32(&self, at: u64, value: u32) -> u32 {
        self.0
            .half_word(at)
            .map_or(0, |word| word.swap(value, AcqRel))
    }

    #[inline]
    fn add32(&self, at: u64, value: u32) -> u32 {
        self.0
            .half_word(at)
            .map_or(0, |word| word.fetch_add(value, AcqRel))
    }

    #[inline]
    fn or32(&self, at: u64, bits: u32) -> u32 {
        self.0
            .half_word(at)
            .map_or(0, |word| word.fetch_or(bits, AcqRel))
    }

    #[inline]
    fn replace32(&self, at: u64, expected: u32, value: u32) -> bool {
        self.0.half_word(at).is_some_and(|word| {
            word.compare_exchange(expected, value, AcqRel, Relaxed)
                .is_ok()
        })
    }
}

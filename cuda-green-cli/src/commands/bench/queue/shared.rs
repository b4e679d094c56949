//! Words of pinned memory that kernels and threads share.

use std::sync::atomic::AtomicU64;

use cuda_green::{CudaDevice, PinnedBuffer};

/// Words from one that one side writes to one that another does: 128 bytes.
pub const LINE: usize = 16;

/// Zeroed words in pinned memory, which are accessed as atomics while a kernel may access them.
pub struct Words(PinnedBuffer<u64>);

impl Words {
    pub fn new(device: &CudaDevice, count: usize) -> anyhow::Result<Self> {
        Ok(Self(PinnedBuffer::new(device, count)?))
    }

    /// Returns the address for kernels.
    pub fn address(&self) -> anyhow::Result<u64> {
        Ok(self.0.device_address()?)
    }

    pub fn words(&self) -> &[AtomicU64] {
        let start = self.0.as_ptr().cast::<AtomicU64>();
        // SAFETY: the buffer owns that many words, which are aligned and live as long as it; every access of threads
        // while it is in use is through these atomics, as nothing here asks it for a slice.
        unsafe { std::slice::from_raw_parts(start, self.0.len()) }
    }

    /// Returns a word. An index that is not there is an error of this program.
    pub fn word(&self, index: usize) -> anyhow::Result<&AtomicU64> {
        let word = self.words().get(index);
        word.ok_or_else(|| anyhow::anyhow!("there is no word {index}"))
    }
}

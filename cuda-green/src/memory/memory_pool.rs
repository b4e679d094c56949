//! What every memory pool can do, for programs that are tested without a GPU.

use super::{GpuBuffer, GpuMemoryPool, MemoryPressure};
use crate::error::Result;

/// A pool of memory under a limit: [`GpuMemoryPool`], or with the feature `test-utils` a mock of it.
///
/// Programs may have mocks of their own: a method that is added later has a default.
pub trait MemoryPool: Clone + Send + Sync {
    /// What it gives out.
    type Buffer: MemoryBuffer;

    /// Whether memory can be had at all; as [`GpuMemoryPool::check_availability`].
    ///
    /// # Errors
    /// Why not.
    fn check_availability() -> Result<()>;

    /// As [`GpuMemoryPool::allocate`].
    ///
    /// # Errors
    /// As there.
    fn allocate(&self, size: usize) -> Result<Self::Buffer>;

    /// As [`GpuMemoryPool::deallocate`].
    ///
    /// # Errors
    /// As there.
    fn deallocate(&self, buffer: Self::Buffer) -> Result<()>;

    /// The limit in bytes.
    fn limit(&self) -> u64;

    /// Bytes in use.
    fn used(&self) -> u64;

    /// Bytes left.
    fn available(&self) -> u64;

    /// The most bytes in use at once.
    fn high_water_mark(&self) -> u64;

    /// How full it is.
    fn pressure_level(&self) -> MemoryPressure;
}

/// Memory of a [`MemoryPool`], which goes back when it is dropped.
#[allow(clippy::len_without_is_empty)] // no buffer is empty
pub trait MemoryBuffer: Send + Sync {
    /// Its length in bytes; never 0.
    fn len(&self) -> usize;

    /// As [`GpuBuffer::copy_from`].
    ///
    /// # Errors
    /// As there.
    fn copy_from(&self, source: &[u8]) -> Result<()>;

    /// As [`GpuBuffer::copy_to`].
    ///
    /// # Errors
    /// As there.
    fn copy_to(&self, destination: &mut [u8]) -> Result<()>;

    /// As [`GpuBuffer::fill`].
    ///
    /// # Errors
    /// As there.
    fn fill(&self, byte: u8) -> Result<()>;
}

impl MemoryPool for GpuMemoryPool {
    type Buffer = GpuBuffer;

    fn check_availability() -> Result<()> {
        Self::check_availability()
    }

    fn allocate(&self, size: usize) -> Result<GpuBuffer> {
        self.allocate(size)
    }

    fn deallocate(&self, buffer: GpuBuffer) -> Result<()> {
        self.deallocate(buffer)
    }

    fn limit(&self) -> u64 {
        self.limit()
    }

    fn used(&self) -> u64 {
        self.used()
    }

    fn available(&self) -> u64 {
        self.available()
    }

    fn high_water_mark(&self) -> u64 {
        self.high_water_mark()
    }

    fn pressure_level(&self) -> MemoryPressure {
        self.pressure_level()
    }
}

impl MemoryBuffer for GpuBuffer {
    fn len(&self) -> usize {
        self.len()
    }

    fn copy_from(&self, source: &[u8]) -> Result<()> {
        self.copy_from(source)
    }

    fn copy_to(&self, destination: &mut [u8]) -> Result<()> {
        self.copy_to(destination)
    }

    fn fill(&self, byte: u8) -> Result<()> {
        self.fill(byte)
    }
}

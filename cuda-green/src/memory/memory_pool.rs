//! The trait of all memory pools, for programs that are tested without a GPU.

use super::{GpuBuffer, GpuMemoryPool, MemoryPressure};
use crate::error::Result;

/// A pool of memory under a limit: [`GpuMemoryPool`] or, with the feature `test-utils`, `MockGpuMemoryPool`.
///
/// Programs may implement their own mocks: a method that is added later has a default.
pub trait MemoryPool: Clone + Send + Sync {
    /// The type of its buffers.
    type Buffer: MemoryBuffer;

    /// Checks whether memory can be allocated at all, as [`GpuMemoryPool::check_availability`].
    ///
    /// # Errors
    /// The reason if it cannot.
    fn check_availability() -> Result<()>;

    /// Allocates a buffer, as [`GpuMemoryPool::allocate`].
    ///
    /// # Errors
    /// Those of [`GpuMemoryPool::allocate`].
    fn allocate(&self, size: usize) -> Result<Self::Buffer>;

    /// Frees a buffer, as [`GpuMemoryPool::deallocate`].
    ///
    /// # Errors
    /// Those of [`GpuMemoryPool::deallocate`].
    fn deallocate(&self, buffer: Self::Buffer) -> Result<()>;

    /// Returns the limit in bytes.
    fn limit(&self) -> u64;

    /// Returns the bytes in use.
    fn used(&self) -> u64;

    /// Returns the bytes left.
    fn available(&self) -> u64;

    /// Returns the most bytes in use at once.
    fn high_water_mark(&self) -> u64;

    /// Returns how full the pool is.
    fn pressure_level(&self) -> MemoryPressure;
}

/// A buffer of a [`MemoryPool`], which is freed when it is dropped.
#[allow(clippy::len_without_is_empty)] // no buffer is empty
pub trait MemoryBuffer: Send + Sync {
    /// Returns the length in bytes; never 0.
    fn len(&self) -> usize;

    /// Copies from the host, as [`GpuBuffer::copy_from`].
    ///
    /// # Errors
    /// Those of [`GpuBuffer::copy_from`].
    fn copy_from(&self, source: &[u8]) -> Result<()>;

    /// Copies to the host, as [`GpuBuffer::copy_to`].
    ///
    /// # Errors
    /// Those of [`GpuBuffer::copy_to`].
    fn copy_to(&self, destination: &mut [u8]) -> Result<()>;

    /// Sets every byte, as [`GpuBuffer::fill`].
    ///
    /// # Errors
    /// Those of [`GpuBuffer::fill`].
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

//! GPU memory under exact limits: pools, buffers, pressure.

mod budget;
#[cfg(test)]
mod budget_tests;
mod buffer;
mod pool;
mod pressure;
mod sync;

pub use buffer::GpuBuffer;
pub use pool::GpuMemoryPool;
pub use pressure::MemoryPressure;

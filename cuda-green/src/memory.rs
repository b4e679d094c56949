//! GPU memory under exact limits: pools, buffers, pressure.

mod buffer;
mod pool;
mod pressure;

pub use buffer::GpuBuffer;
pub use pool::GpuMemoryPool;
pub use pressure::MemoryPressure;

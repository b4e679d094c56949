//! GPU memory under exact limits: budgets, pools, buffers, pressure.
//!
//! `budget` says how many bytes, `alloc` which bytes, and `observe` has the figures of both. The files here are what
//! users hold: `pool` over all of that, the buffers, and the trait that a mock has too.

mod alloc;
mod budget;
mod buffer;
mod memory_budget;
mod memory_pool;
#[cfg(feature = "test-utils")]
mod mock;
mod observe;
mod pinned;
mod pool;
mod typed;

pub use budget::{MemoryPressure, PressureChange};
pub use buffer::{FreeError, GpuBuffer};
pub use memory_budget::MemoryBudget;
pub use memory_pool::{MemoryBuffer, MemoryPool};
#[cfg(feature = "test-utils")]
pub use mock::{MockGpuBuffer, MockGpuMemoryPool};
pub use observe::{Latencies, PoolMetrics};
pub use pinned::PinnedBuffer;
pub use pool::GpuMemoryPool;
pub use typed::TypedBuffer;

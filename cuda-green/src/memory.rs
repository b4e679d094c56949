//! GPU memory under exact limits: budgets, pools, buffers, pressure.
//!
//! `budget` decides how many bytes may be used, `alloc` which bytes are used, and `observe` has the figures of both.
//! The files of this folder are the types that users hold: pools, budgets, buffers, and the trait that a mock
//! implements too.

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

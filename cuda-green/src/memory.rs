//! GPU memory under exact limits: budgets, pools, buffers, pressure.
//!
//! `budget` counts bytes; `core` has the driver's memory (`backing`) and knows what of it is free (`heap`);
//! `pool` puts a thread's blocks at hand (`cache`) between the two, and `fence` keeps what streams still use
//! out of it.

mod backing;
mod budget;
#[cfg(test)]
mod budget_tests;
mod buffer;
mod cache;
mod classes;
mod core;
mod fence;
mod heap;
mod interface;
mod limits;
mod metrics;
#[cfg(feature = "test-utils")]
mod mock;
mod pinned;
mod pool;
mod pressure;
mod slots;
mod sync;
mod tree;
mod typed;

pub use buffer::GpuBuffer;
pub use interface::{MemoryBuffer, MemoryPool};
pub use limits::MemoryBudget;
pub use metrics::{Latencies, PoolMetrics};
#[cfg(feature = "test-utils")]
pub use mock::{MockGpuBuffer, MockGpuMemoryPool};
pub use pinned::PinnedBuffer;
pub use pool::GpuMemoryPool;
pub use pressure::{MemoryPressure, PressureChange};
pub use slots::{EvictionPolicy, ModelLease, ModelNeeds, ModelSlots, SlotStatus, SlotsStatus};
pub use typed::TypedBuffer;

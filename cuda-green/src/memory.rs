//! GPU memory under exact limits: budgets, pools, buffers, pressure.
//!
//! `budget` counts bytes in a `tree` of limits; `core` has the driver's memory (`backing`, through `supply`)
//! and knows what of it is free (`heap`, and `depot` where threads meet); `seat` puts a thread's blocks at
//! hand (`cache`, one for each `shard`) between the two, and `fence` keeps what streams still use out of it.
//! `pool` is all that in one for users.

mod backing;
mod budget;
#[cfg(all(test, loom))]
mod budget_loom;
#[cfg(test)]
mod budget_tests;
mod buffer;
mod cache;
mod classes;
mod core;
mod depot;
#[cfg(all(test, feature = "test-utils"))]
mod depot_tests;
#[cfg(feature = "metrics")]
mod export;
mod fence;
mod heap;
mod inner;
mod interface;
mod latencies;
mod limits;
mod metrics;
#[cfg(feature = "test-utils")]
mod mock;
mod pinned;
mod pool;
mod pressure;
mod remains;
mod report;
mod seat;
mod shard;
mod slots;
mod supply;
mod trace;
mod tree;
mod typed;
mod whole_device;

pub use buffer::{FreeError, GpuBuffer};
#[cfg(feature = "metrics")]
pub use export::MemoryExporter;
pub use interface::{MemoryBuffer, MemoryPool};
pub use latencies::Latencies;
pub use limits::MemoryBudget;
pub use metrics::PoolMetrics;
#[cfg(feature = "test-utils")]
pub use mock::{MockGpuBuffer, MockGpuMemoryPool};
pub use pinned::PinnedBuffer;
pub use pool::GpuMemoryPool;
pub use pressure::{MemoryPressure, PressureChange};
pub use report::{MemoryReport, MemoryRow};
pub use slots::{EvictionPolicy, ModelLease, ModelNeeds, ModelSlots, SlotStatus, SlotsStatus};
pub use typed::TypedBuffer;

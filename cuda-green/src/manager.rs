//! The partition manager: disjoint shares of one device under names.
//!
//! All partitions in force come from one split. A context takes pieces of it and gives them back when it
//! is destroyed; when the last one is gone, so is the split.

mod context_key;
#[cfg(feature = "metrics")]
mod counters;
mod create;
mod create_one;
mod destroy;
#[cfg(feature = "metrics")]
mod exporter;
mod follow;
mod join;
mod label;
mod layout;
mod memory_report;
mod mode;
mod observe;
mod partition_graph;
mod partition_manager;
mod probe;
mod quad;
mod rebalance;
mod retention;
mod scaffold;
mod separation;
mod set_shares;
mod shared_plan;
mod state;
mod status;
mod stream_home;
mod verify;
mod watcher;

pub use context_key::ContextKey;
#[cfg(feature = "metrics")]
pub use exporter::PartitionExporter;
pub use mode::PartitionMode;
pub use partition_graph::PartitionGraph;
pub use partition_manager::SmPartitionManager;
pub use probe::Probe;
pub use quad::{ContextId, RebalanceHint};
pub use retention::GREEN_CONTEXT_BYTES;
pub use separation::serve_separation_test;
pub use shared_plan::SharedPlan;
pub use status::{AllocationStatus, ContextStatus};
pub use stream_home::StreamHome;
pub use verify::{Miscount, Overlap, Verification, VerificationMethod};

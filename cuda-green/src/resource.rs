//! The resources that share out a device: SMs and workqueues, as the driver hands them out.
//!
//! A split is a value (`sm_split`). It is checked without a driver (`check`), lowered to one call that this driver has
//! (`lowering`) and executed (`split`); plans of the planner come as such calls, and are executed by the same functions
//! (`execution`). Each [`SmResource`] knows its provenance, which decides whether it can be merged or split again (`sm`,
//! `provenance`).

mod check;
mod descriptor;
mod execution;
mod lowering;
mod mps;
mod of_device;
mod provenance;
mod raw;
mod sm;
mod sm_parts;
mod sm_split;
mod split;
#[cfg(test)]
mod tests;
mod workqueue;

pub use sm::SmResource;
pub use sm_parts::{SmParts, SmSizes};
pub use sm_split::{PerGroup, SmCount, SmSplit};
pub use workqueue::{WorkqueueResource, WorkqueueScope};

pub(crate) use descriptor::describe;
pub(crate) use execution::is_topology_refusal;

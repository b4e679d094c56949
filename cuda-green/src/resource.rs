//! What a device can be shared by: SMs and workqueues, as the driver hands them out.
//!
//! A split is a value (`sm_split`), is checked without a driver (`check`), becomes one call that the driver
//! has (`lowering`), and is made (`split`, `split_calls`). What may be merged and split again, an [`SmResource`] knows
//! of itself (`sm`, `provenance`).

mod check;
mod descriptor;
mod lowering;
mod mps;
mod of_device;
mod provenance;
mod sm;
mod sm_parts;
mod sm_split;
mod split;
mod split_calls;
#[cfg(test)]
mod tests;
mod workqueue;

pub use sm::SmResource;
pub use sm_parts::{SmParts, SmSizes};
pub use sm_split::{PerGroup, SmCount, SmSplit};
pub use workqueue::{WorkqueueResource, WorkqueueScope};

pub(crate) use descriptor::describe;
pub(crate) use split_calls::is_topology_refusal;

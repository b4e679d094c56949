//! What a device can be shared by: SMs and workqueues, as the driver hands them out.
//!
//! A split is a value (`request`), is checked without a driver (`check`), becomes one call that the driver
//! has (`recipe`), and is made (`split`, `calls`). What may be merged and split again, an [`SmResource`] knows
//! of itself (`sm`, `origin`).

mod calls;
mod check;
mod mps;
mod of_device;
mod origin;
mod recipe;
mod request;
mod sm;
mod split;
#[cfg(test)]
mod tests;
mod workqueue;

pub use request::{PerGroup, SmCount, SmSplit};
pub use sm::SmResource;
pub use split::{SmParts, SmSizes};
pub use workqueue::{WorkqueueResource, WorkqueueScope};

pub(crate) use calls::{
    Split, count_groups, describe, describe_with, is_topology_refusal, split_by_count,
    split_structured, try_structured,
};

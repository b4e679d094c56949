//! How a device is split: pure functions from facts and requests to the calls to make and their result.
//!
//! Nothing here touches a driver. What cannot be derived, how many groups of a size the chip's topology
//! allows, is asked through [`GroupCount`].
//!
//! | driver | a plan is | sizes come in |
//! |---|---|---|
//! | 13.1 and later | one structured split, into units that merge or straight into the sizes | 2 SMs |
//! | 12.5 to 13.0 | units of one split by count, merged; the remainder joins one partition | units of 8 SMs on compute capability 9.0 and later, of 2 before |
//! | 12.4 | equal groups and what they leave; unequal ones by splitting that again, within a context | 2 SMs, the groups in the device's own step |
//!
//! A partition keeps the device's co-scheduling, and so its thread-block clusters, unless
//! [`PartitionRequest::exact`] asks for exact sizes where only units that ignore it give them.

mod candidates;
mod choose;
mod facts;
mod nested;
mod plan;
mod refusal;
mod request;
mod structured;
mod units;

pub use candidates::{GroupCount, plans};
pub(crate) use choose::{Choice, Piece, State, available, choose};
pub use facts::DeviceFacts;
pub(crate) use nested::Area;
pub(crate) use plan::refusals;
pub use plan::{Group, Part, Plan, PlannedPartition, RefusedPlan, SplitCall, SplitStrategy};
pub(crate) use refusal::of_all_plans;
pub(crate) use request::Demands;
pub use request::{PartitionRequest, SmRequest};
pub(crate) use structured::whole_in_units;

#[cfg(test)]
mod tests;

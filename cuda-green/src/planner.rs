//! The planner: pure functions from facts and requests to the calls that split a device, and their result.
//!
//! Nothing here touches a driver. One thing cannot be derived: how many groups of a size the chip's topology
//! allows. The planner asks for that through [`GroupCount`].
//!
//! | driver | a plan is | sizes come in |
//! |---|---|---|
//! | 13.1 and later | one structured split, into units that merge or straight into the sizes | 2 SMs |
//! | 12.5 to 13.0 | units of one split by count, merged, or larger groups where these leave less over; the remainder joins one partition; else as on 12.4 | units of 8 SMs on compute capability 9.0 and later, of 2 before |
//! | 12.4 | equal groups and their remainder; for unequal sizes, the remainder is split again, within a context | 2 SMs, the groups in the device's own step |
//!
//! So no driver does worse than an older one. Of all plans that meet the requests, the best is the one in which equal
//! requests get equal sizes, targets are missed by little and few SMs are idle; of equally good plans, the one that
//! stands first in this table.
//!
//! A partition keeps the device's co-scheduling, and so its thread-block clusters, unless
//! [`PartitionRequest::exact`] asks for exact sizes where only units that ignore it give them.

mod area;
mod choose;
mod counted_split;
mod demands;
mod device_facts;
mod merged;
mod nested;
mod plan;
mod planning;
mod refusal;
mod request;
mod split_call;
mod structured;
mod targets;
mod worth;

pub(crate) use area::Area;
pub(crate) use choose::{Choice, Piece, PieceState, available, choose};
pub(crate) use counted_split::{CountedSplit, MergedGroups};
pub(crate) use demands::{Demands, check as check_requests};
pub use device_facts::DeviceFacts;
pub(crate) use device_facts::coscheduled_within;
pub(crate) use plan::refusals;
pub use plan::{Part, Plan, PlannedPartition, RefusedPlan, SplitStrategy};
pub(crate) use planning::error_of_refused;
pub use planning::plans;
pub use request::{PartitionRequest, SmRequest};
pub(crate) use request::{in_words, without_runs};
pub use split_call::{Group, GroupCount, SplitCall, SplitFlag};

#[cfg(test)]
mod tests;

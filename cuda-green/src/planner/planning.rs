//! The planner's entry point.

use super::{Demands, DeviceFacts, GroupCount, PartitionRequest, Plan, candidates, refusal};
use crate::error::Result;

/// Returns the plans that meet the requests, best first. If the driver refuses one for reasons of topology
/// (`CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`, 915), try the next.
///
/// The best plan gives equal requests equal sizes; next, it comes nearest to the targets; next, it leaves the fewest SMs
/// idle where a request takes the rest. Equally good plans stand in this order: a structured split into units that
/// merge, so that they can change hands later, or straight into the sizes (13.1); merged units of the device's own size,
/// or larger equal groups, then fine units if exact sizes are demanded (12.5); groups of splits within splits (12.4).
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for requests that contradict each other;
/// [`Error::ClusterUnavailable`](crate::Error::ClusterUnavailable) where a plan would meet everything but a
/// demanded cluster; [`Error::UnitsTooCoarse`](crate::Error::UnitsTooCoarse) where only the device's units are in the
/// way; [`Error::InsufficientSms`](crate::Error::InsufficientSms) where the requests exceed the device; the errors of
/// `count_groups`.
pub fn plans(
    facts: &DeviceFacts,
    requests: &[PartitionRequest],
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let demands = Demands::of(facts, requests)?;
    let plans = candidates::all(facts, &demands, count_groups)?;
    if plans.is_empty() {
        return Err(refusal::reason(facts, &demands, count_groups)?);
    }
    Ok(plans)
}

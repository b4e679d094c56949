//! The planner's entry point.

use super::{Demands, DeviceFacts, GroupCount, PartitionRequest, Plan, candidates, refusal};
use crate::error::Result;

/// The plans that meet the requests, best first: where the driver refuses one for reasons of topology
/// (`CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`, 915), the next is to be tried.
///
/// Best is where equal requests get equal sizes, then where targets are nearest, then where the one with the rest has
/// all of it. Plans as good as each other stand in this order: a structured split into units that merge, so that they
/// can change hands later, or straight into the sizes (13.1); merged units of the device's own size, or larger equal
/// groups, then fine ones if exact sizes are demanded (12.5); groups of splits within splits (12.4).
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for requests that contradict each other;
/// [`Error::ClusterUnavailable`](crate::Error::ClusterUnavailable) where only a demanded cluster is in the
/// way; [`Error::UnitsTooCoarse`](crate::Error::UnitsTooCoarse) where only the device's units are;
/// [`Error::InsufficientSms`](crate::Error::InsufficientSms) where the requests exceed the device or no plan
/// can meet them; what `count_groups` fails with.
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

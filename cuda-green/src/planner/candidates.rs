//! All plans for a list of requests, best first, without those that cannot keep what it demands.

use super::{
    Demands, DeviceFacts, PartitionRequest, Plan, facts::FINE_UNIT, nested, refusal, structured,
    units,
};
use crate::Result;

/// The driver's dry run: how many groups of at least this many SMs a split by count would make, with
/// co-scheduling ignored or not.
pub type GroupCount<'a> = dyn Fn(u32, bool) -> Result<u32> + 'a;

/// The plans that meet the requests, best first: where the driver refuses one for reasons of topology
/// (`CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`, 915), the next is to be tried.
///
/// The order: a structured split into units that merge, so that they can change hands later, or straight into
/// the sizes (13.1); merged units of the device's own size, then fine ones if exact sizes are demanded
/// (12.5); groups of splits within splits (12.4, and later ones where a demanded cluster needs it).
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
    let plans = all(facts, &demands, count_groups)?;
    if plans.is_empty() {
        return Err(refusal::reason(facts, &demands, count_groups)?);
    }
    Ok(plans)
}

/// Those plans that keep all that is demanded.
pub(super) fn all(
    facts: &DeviceFacts,
    demands: &Demands,
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let capabilities = &facts.capabilities;
    let mut plans = Vec::new();
    if capabilities.structured_split {
        plans.extend(structured::plans(facts, demands, count_groups)?);
    }
    if capabilities.merge {
        let (unit, fine) = facts.unit();
        plans.extend(units::plan(facts, demands, unit, fine, count_groups)?);
        if unit > FINE_UNIT && demands.list.iter().any(|request| request.exact) {
            plans.extend(units::plan(facts, demands, FINE_UNIT, true, count_groups)?);
        }
    }
    // Where units merge, nesting is for clusters that they cannot keep, and for a driver that refuses them.
    let clusters = demands.list.iter().any(|request| request.cluster > 1);
    if !capabilities.merge || !plans.is_empty() || clusters {
        plans.extend(nested::plans(facts, demands, count_groups)?);
    }
    plans.retain(|plan| {
        let mut partitions = plan.partitions.iter().zip(&demands.list).enumerate();
        partitions.all(|(index, (partition, request))| {
            partition.max_cluster >= request.cluster && demands.is_exact(index, partition.sm_count)
        })
    });
    Ok(plans)
}

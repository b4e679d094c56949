//! The planner's entry point: from requests to all plans that keep them, best first.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    Demands, DeviceFacts, GroupCount, PartitionRequest, Plan, SplitFlag, device_facts::FINE_UNIT,
    merged, nested, refusal, structured, worth::Worth,
};
use crate::error::{Error, Result};

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
    let plans = all_plans(facts, &demands, count_groups)?;
    if plans.is_empty() {
        let search = |changed: &Demands| all_plans(facts, changed, count_groups);
        return Err(refusal::reason(facts, &demands, &search)?);
    }
    Ok(plans)
}

/// Returns the error where the driver refused all plans: a demanded cluster if other plans lack only that, else
/// `refusal`.
pub(crate) fn error_of_refused(
    facts: &DeviceFacts,
    requests: &[PartitionRequest],
    count_groups: &GroupCount<'_>,
    refusal: Error,
) -> Result<Error> {
    let demands = Demands::of(facts, requests)?;
    let search = |changed: &Demands| all_plans(facts, changed, count_groups);
    Ok(refusal::cluster_in_the_way(facts, &demands, &search)?.unwrap_or(refusal))
}

/// Returns the plans that keep all demands, best first.
fn all_plans(
    facts: &DeviceFacts,
    demands: &Demands,
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let capabilities = &facts.capabilities;
    let known = RefCell::new(BTreeMap::new());
    let count_groups = &|sm_count: u32, flag: SplitFlag| {
        if let Some(count) = known.borrow().get(&(sm_count, flag)) {
            return Ok(*count);
        }
        // No sum below expects more groups than there are SMs for.
        let count = count_groups(sm_count, flag)?.min(facts.sm_count / sm_count.max(1));
        known.borrow_mut().insert((sm_count, flag), count);
        Ok(count)
    };
    let mut plans = Vec::new();
    if capabilities.structured_split {
        plans.extend(structured::plans(facts, demands, count_groups)?);
    }
    if capabilities.merge {
        let (unit, flag) = facts.unit();
        plans.extend(merged::plan(facts, demands, unit, flag, count_groups)?);
        if unit > FINE_UNIT && demands.list.iter().any(|request| request.exact) {
            let fine = SplitFlag::IgnoreCoscheduling;
            plans.extend(merged::plan(facts, demands, FINE_UNIT, fine, count_groups)?);
        }
    }
    plans.extend(nested::plans(facts, demands, count_groups)?);
    plans.retain(|plan| demands.are_kept_by(plan));
    // The sort is stable: equally good plans keep the order of the ways above.
    plans.sort_by_key(|plan| {
        let sizes = plan.partitions.iter().map(|partition| partition.sm_count);
        Worth::of(facts, demands, &sizes.collect::<Vec<_>>())
    });
    Ok(plans)
}

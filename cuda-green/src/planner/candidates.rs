//! All plans that keep the demands of a list of requests.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    Demands, DeviceFacts, GroupCount, Plan, SplitFlag, device_facts::FINE_UNIT, merged, nested,
    structured, worth::Worth,
};
use crate::error::Result;

/// Returns the plans that keep all demands, best first.
pub(super) fn all(
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

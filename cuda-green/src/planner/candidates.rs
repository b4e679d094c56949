//! All plans for a list of requests, best first and without those that cannot keep what it demands.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    Demands, DeviceFacts, Plan, device_facts::FINE_UNIT, merged, nested, structured, worth::Worth,
};
use crate::error::Result;

/// The driver's dry run: how many groups of at least this many SMs a split by count would make, with
/// co-scheduling ignored or not.
pub type GroupCount<'a> = dyn Fn(u32, bool) -> Result<u32> + 'a;

/// Those plans that keep all that is demanded.
pub(super) fn all(
    facts: &DeviceFacts,
    demands: &Demands,
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let capabilities = &facts.capabilities;
    let known = RefCell::new(BTreeMap::new());
    let count_groups = &|min: u32, fine: bool| {
        if let Some(count) = known.borrow().get(&(min, fine)) {
            return Ok(*count);
        }
        // More groups than there are SMs for them would be no answer, and no sum below reckons with it.
        let count = count_groups(min, fine)?.min(facts.sm_count / min.max(1));
        known.borrow_mut().insert((min, fine), count);
        Ok(count)
    };
    let mut plans = Vec::new();
    if capabilities.structured_split {
        plans.extend(structured::plans(facts, demands, count_groups)?);
    }
    if capabilities.merge {
        let (unit, fine) = facts.unit();
        plans.extend(merged::plan(facts, demands, unit, fine, count_groups)?);
        if unit > FINE_UNIT && demands.list.iter().any(|request| request.exact) {
            plans.extend(merged::plan(facts, demands, FINE_UNIT, true, count_groups)?);
        }
    }
    plans.extend(nested::plans(facts, demands, count_groups)?);
    plans.retain(|plan| {
        let mut partitions = plan.partitions.iter().zip(&demands.list).enumerate();
        partitions.all(|(index, (partition, request))| {
            partition.max_cluster >= request.cluster && demands.is_exact(index, partition.sm_count)
        })
    });
    // Stable: of plans that are as good, the way that comes first above.
    plans.sort_by_key(|plan| {
        let sizes = plan.partitions.iter().map(|partition| partition.sm_count);
        Worth::of(facts, demands, &sizes.collect::<Vec<_>>())
    });
    Ok(plans)
}

//! Plans of one structured split (13.1): a group for each size, or units that merge.

use super::{
    Demands, DeviceFacts, Group, GroupCount, Part, Plan, PlannedPartition, SplitCall, SplitFlag,
    SplitStrategy,
    demands::sum,
    device_facts::{FINE_UNIT, coscheduled_within},
};
use crate::error::Result;

/// The most units that a structured split may lose to groups that need a few SMs beside whole units.
const MOST_UNITS_LOST: u32 = 3;

/// Returns the structured plans, best first: units that merge, so that they can change hands later; then a group for
/// each size. The driver handles groups in their order, so which order it accepts depends on the chip.
pub(super) fn plans(
    facts: &DeviceFacts,
    demands: &Demands,
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let Some(sizes) = sizes_that_fit(facts, demands) else {
        return Ok(Vec::new());
    };
    let unit = facts.coscheduled().max(FINE_UNIT);
    let mut plans: Vec<Plan> = Vec::new();
    let mut add = |plan: Option<Plan>| plans.extend(plan.filter(|plan| !plans.contains(plan)));
    if sizes
        .iter()
        .all(|size| *size >= facts.capabilities.granularity.min.max(unit))
    {
        let units = count_groups(unit, SplitFlag::None)?;
        for units in (units.saturating_sub(MOST_UNITS_LOST)..=units).rev() {
            for plain_first in [true, false] {
                add(in_units(facts, demands, &sizes, unit, units, plain_first));
            }
        }
    }
    // Where there are more partitions than whole units, the smallest that demand no cluster do without a unit.
    let mut without: Vec<usize> = (0..sizes.len()).collect();
    without.sort_by_key(|index| sizes.get(*index).copied());
    without.retain(|index| {
        demands
            .list
            .get(*index)
            .is_some_and(|one| one.cluster <= FINE_UNIT)
    });
    for pairs in 0..=without.len() {
        let in_pairs = without.get(..pairs).unwrap_or_default();
        for small_first in [false, true] {
            add(Some(in_sizes(
                facts,
                demands,
                &sizes,
                unit,
                small_first,
                in_pairs,
            )));
        }
    }
    Ok(plans)
}

/// Returns the even sizes of all partitions, with targets lowered where not all fit; `None` where they do not fit even so.
fn sizes_that_fit(facts: &DeviceFacts, demands: &Demands) -> Option<Vec<u32>> {
    // With an odd number of SMs, one belongs to no group.
    let even_total = facts.sm_count & !1;
    let rest_least = demands.rest_least().next_multiple_of(FINE_UNIT);
    let of_rest = |index| (demands.rest == Some(index)).then_some(rest_least);
    let limits = demands.limits(FINE_UNIT, FINE_UNIT, even_total, of_rest)?;
    let limit = |index: usize| limits.get(index).copied().unwrap_or(u32::MAX);
    let room = even_total.saturating_sub(rest_least);
    let sizes = demands.sizes(FINE_UNIT, FINE_UNIT, room, limit)?;
    let sizes: Vec<u32> = sizes.iter().map(|size| size & !1).collect();
    let rest = demands.rest.and_then(|rest| sizes.get(rest));
    let fit = sum(&sizes)? <= facts.sm_count
        && sizes.iter().all(|size| *size >= FINE_UNIT)
        && rest.is_none_or(|size| *size >= rest_least);
    fit.then_some(sizes)
}

fn plan(
    facts: &DeviceFacts,
    demands: &Demands,
    strategy: SplitStrategy,
    groups: Vec<Group>,
    parts: Vec<Vec<Part>>,
) -> Plan {
    let group_of = |part: &Part| match part {
        Part::Group(index) => groups.get(*index),
        Part::Remainder => None,
    };
    let partitions = parts
        .into_iter()
        .zip(&demands.requested)
        .map(|(parts, &requested)| {
            let groups = || parts.iter().filter_map(group_of);
            let sm_count = groups().map(|group| group.sm_count).sum();
            let coscheduled = groups().map(|group| group.coscheduled).max().unwrap_or(1);
            PlannedPartition::new(facts, requested, sm_count, parts, coscheduled)
        })
        .collect();
    Plan::new(facts, strategy, SplitCall::Structured(groups), partitions)
}

/// Returns the plan with one group for each size. A group smaller than a unit is co-scheduled as far as its size allows,
/// and groups of `in_pairs` in pairs only. With `small_first`, small groups precede large ones: each needs a whole unit,
/// while a large group can do with fewer whole units than it would take.
fn in_sizes(
    facts: &DeviceFacts,
    demands: &Demands,
    sizes: &[u32],
    unit: u32,
    small_first: bool,
    in_pairs: &[usize],
) -> Plan {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    if small_first {
        order.sort_by_key(|index| sizes.get(*index).copied());
    }
    let mut groups = Vec::with_capacity(sizes.len());
    let mut parts = vec![Vec::new(); sizes.len()];
    for index in order {
        if let (Some(&sm_count), Some(parts)) = (sizes.get(index), parts.get_mut(index)) {
            let most = if in_pairs.contains(&index) {
                FINE_UNIT
            } else {
                unit
            };
            parts.push(Part::Group(groups.len()));
            groups.push(Group::new(
                sm_count,
                coscheduled_within(sm_count, most),
                true,
            ));
        }
    }
    plan(facts, demands, SplitStrategy::Structured, groups, parts)
}

/// Returns the plan with each size in units, at most `most` in all. The last unit of a size also has the SMs beside whole
/// units. The groups of one split merge, since they are co-scheduled alike.
fn in_units(
    facts: &DeviceFacts,
    demands: &Demands,
    sizes: &[u32],
    unit: u32,
    most: u32,
    plain_first: bool,
) -> Option<Plan> {
    let mut units: Vec<u32> = sizes.iter().map(|size| (size / unit).max(1)).collect();
    for _ in most..units.iter().sum() {
        // The last of the largest partitions can best do with a larger last unit; `max_by_key` returns the last.
        *units
            .iter_mut()
            .max_by_key(|units| **units)
            .filter(|units| **units > 1)? -= 1;
    }
    // A unit with more SMs may use up whole units that plain ones then lack; or plain ones leave none for it. So both
    // orders are tried.
    let mut groups = Vec::new();
    let mut parts = vec![Vec::new(); units.len()];
    for plain in [plain_first, !plain_first] {
        for ((&size, &units), parts) in sizes.iter().zip(&units).zip(&mut parts) {
            for group in units_of(size, units, unit)? {
                if group.backfill != plain {
                    parts.push(Part::Group(groups.len()));
                    groups.push(group);
                }
            }
        }
    }
    let strategy = SplitStrategy::StructuredUnits;
    Some(plan(facts, demands, strategy, groups, parts))
}

/// Returns this many SMs as groups of one unit each; the last group has the SMs beside whole units.
fn units_of(sm_count: u32, units: u32, unit: u32) -> Option<impl Iterator<Item = Group>> {
    let last = sm_count
        .checked_sub(units.checked_sub(1)?.checked_mul(unit)?)
        .filter(|last| *last >= unit)?;
    let group = move |sm_count| Group::new(sm_count, unit, sm_count != unit);
    Some((1..units).map(move |_| group(unit)).chain([group(last)]))
}

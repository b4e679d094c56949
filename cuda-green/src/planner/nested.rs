//! Plans without merging: equal groups of one split, and further splits of its remainder. They are the only plans on
//! 12.4, and candidates on every later driver.
//!
//! The results of a split cannot be split again, but the resource of a context over one can. So each further split
//! divides the remainder of the one before, through a scaffold context over it. It makes only one group: within a part,
//! several groups can come out smaller than requested (measured on an H200, driver 580).

use super::{
    Area, Demands, DeviceFacts, GroupCount, Part, PartitionRequest, Plan, PlannedPartition,
    SmRequest, SplitCall, SplitFlag, SplitStrategy, demands::grouped, device_facts::FINE_UNIT,
    worth::Worth,
};
use crate::error::Result;

/// Returns the plans, those with the fewest scaffold contexts first.
pub(super) fn plans(
    facts: &DeviceFacts,
    demands: &Demands,
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let granularity = facts.capabilities.granularity;
    let whole = facts.coscheduled();
    let device = Area::device(facts, groups_of(facts, whole, count_groups)?);
    let mut plans: Vec<Plan> = Vec::new();
    let pairs = device.part(0, 0, FINE_UNIT);
    // Sizes in whole units for all; then only for groups of the device itself.
    for (step, min) in [(whole, granularity.min), (whole.min(FINE_UNIT), pairs.min)] {
        let from = plans.len();
        let mut best: Option<Worth> = None;
        for cap in demands.caps(step) {
            let Some(sizes) = demands.sizes(step, min, facts.sm_count, cap) else {
                continue;
            };
            let bound = Worth::of(facts, demands, &sizes);
            if best.is_some_and(|best| best.cannot_be_improved_within(&bound)) {
                break;
            }
            for first in firsts(demands, &sizes, &device) {
                if groups_of(facts, first.size, count_groups)? < first.groups() {
                    continue;
                }
                for last in [Last::TakesRemainder, Last::TakesGroup, Last::IsBelowMinimum] {
                    let Some(plan) = chain(facts, demands, &sizes, &first, device, last) else {
                        continue;
                    };
                    let given: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
                    let worth = Worth::of(facts, demands, &given);
                    best = best.map_or(Some(worth), |best| Some(best.min(worth)));
                    if !plans.contains(&plan) {
                        plans.push(plan);
                    }
                }
            }
        }
        if let Some(new) = plans.get_mut(from..) {
            new.sort_by_key(|plan| plan.nested.len()); // stable: the larger first split goes first
        }
    }
    Ok(plans)
}

fn groups_of(facts: &DeviceFacts, size: u32, count_groups: &GroupCount<'_>) -> Result<u32> {
    if size > facts.sm_count {
        Ok(0)
    } else {
        count_groups(size, SplitFlag::None)
    }
}

/// The split of the device itself, before any nested one.
struct FirstSplit {
    /// SMs of each of its groups.
    size: u32,
    /// The partitions that have a group each. If there are none, one group stays free, and the rest of the device can be
    /// split in pairs.
    members: Vec<usize>,
}

impl FirstSplit {
    fn groups(&self) -> u32 {
        self.members.len().max(1) as u32
    }
}

/// Returns the splits of the device that are worth trying: groups for all partitions of one size, for those of one kind,
/// or for one of them, larger sizes first; a group for the partition that takes the rest; and a group that stays free.
fn firsts(demands: &Demands, sizes: &[u32], device: &Area) -> Vec<FirstSplit> {
    let mut firsts: Vec<FirstSplit> = Vec::new();
    let mut order: Vec<(usize, u32)> = sizes.iter().copied().enumerate().collect();
    order.sort_by_key(|(_, size)| std::cmp::Reverse(*size)); // stable
    for (index, size) in order {
        let Some(request) = demands.list.get(index) else {
            continue;
        };
        // Targets round down here, too, but not below the smallest group. The rest may round down, where nothing else
        // fits.
        let requested = size;
        let size = if demands.rest == Some(index) {
            let least = demands.rest_least();
            device.size_within(size).filter(|size| *size >= least)
        } else if request.is_target() {
            device.size_within(size.max(device.min))
        } else {
            device.size_of(size)
        };
        let Some(size) = size else {
            continue;
        };
        let joined = firsts.iter_mut().find(|first| {
            let of = first.members.first().copied().unwrap_or(index);
            let is_target = demands.list.get(of).map(PartitionRequest::is_target);
            sizes.get(of) == Some(&requested)
                && is_target == Some(request.is_target())
                && first.size == size // the one that takes the rest may be smaller
        });
        match joined.filter(|_| demands.rest != Some(index)) {
            Some(first) => first.members.push(index),
            None => firsts.push(FirstSplit {
                size,
                members: vec![index],
            }),
        }
    }
    let mut all = Vec::new();
    for FirstSplit { size, members } in firsts {
        let mut add = |members: Vec<usize>| all.push(FirstSplit { size, members });
        // Requests of one size may differ in whether they are exact.
        let kinds = grouped(members.iter().copied(), |index| demands.list.get(index));
        add(members);
        let several = kinds.len() > 1;
        for kind in kinds {
            let alone = kind.first().copied().filter(|_| kind.len() > 1);
            if several {
                add(kind);
            }
            if let Some(index) = alone {
                add(vec![index]);
            }
        }
    }
    if demands.rest.is_none() {
        all.extend(device.size_of(1).map(|size| FirstSplit {
            size,
            members: Vec::new(),
        }));
    }
    all
}

/// The share of the last partition, where there is one that takes the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The remainder, if the partition that takes the rest already has a group. Only for an inexact minimum.
    TakesRemainder,
    /// A group of the size requested, so that it is no larger than its equals. The remainder stays idle.
    TakesGroup,
    /// A remainder that is smaller than any group; the partition that takes the rest has a group before it.
    IsBelowMinimum,
}

/// Returns the plan of the first split and one nested split for each other partition, until the remainder is the last.
fn chain(
    facts: &DeviceFacts,
    demands: &Demands,
    sizes: &[u32],
    first: &FirstSplit,
    device: Area,
    last: Last,
) -> Option<Plan> {
    let mut parts: Vec<Option<(Part, Area)>> = vec![None; sizes.len()];
    let groups = first.groups();
    let size = first.size;
    let (group, mut left) = device.split(groups, size)?;
    for (group_index, index) in first.members.iter().enumerate() {
        *parts.get_mut(*index)? = Some((Part::Group(group_index), group));
    }
    // Partitions that need clusters come first, while there are whole units; then larger ones before smaller.
    let mut others: Vec<usize> = (0..sizes.len())
        .filter(|index| !first.members.contains(index) && demands.rest != Some(*index))
        .collect();
    others.sort_by_key(|index| {
        let cluster = demands.list.get(*index).map(|request| request.cluster);
        std::cmp::Reverse((cluster, sizes.get(*index).copied()))
    });
    let mut rest = demands.rest.filter(|index| !first.members.contains(index));
    let mut nested = Vec::new();
    if last == Last::IsBelowMinimum && rest.is_none() {
        return None;
    }
    for (position, index) in others.iter().enumerate() {
        let size = *sizes.get(*index)?;
        let request = demands.list.get(*index)?;
        if last == Last::IsBelowMinimum && position + 1 == others.len() {
            let requested = *demands.requested.get(*index)?;
            let even = if request.is_target() {
                requested & !1
            } else {
                requested.checked_next_multiple_of(FINE_UNIT)?
            };
            let even = even.max(FINE_UNIT);
            let rest_size = left.sm_count.checked_sub(even)?;
            let is_group = left.size_of(rest_size) == Some(rest_size);
            if even >= left.min || !is_group || rest_size < demands.rest_least().max(1) {
                return None;
            }
            let (group, after) = left.split(1, rest_size)?;
            nested.push(rest_size);
            let part = Part::Group(groups as usize + nested.len() - 1);
            *parts.get_mut(rest.take()?)? = Some((part, group));
            *parts.get_mut(*index)? = Some((Part::Remainder, after));
            break;
        }
        let given = left.size_of(size)?;
        if given > size && request.is_target() {
            return None;
        }
        let is_last = position + 1 == others.len() && rest.is_none();
        let is_at_least = matches!(request.sms, SmRequest::AtLeast(_)) && !request.exact;
        let has_rest =
            is_last && is_at_least && demands.rest.is_some() && last == Last::TakesRemainder;
        let part = if given == left.sm_count || has_rest {
            // This takes all that is left, so it must be the last.
            if !is_last {
                return None;
            }
            let all = left;
            left.sm_count = 0;
            (Part::Remainder, all)
        } else {
            let (group, after) = left.split(1, given)?;
            left = after;
            nested.push(given);
            (Part::Group(groups as usize + nested.len() - 1), group)
        };
        *parts.get_mut(*index)? = Some(part);
    }
    if let Some(index) = rest {
        if left.sm_count < demands.rest_least().max(1) {
            return None;
        }
        *parts.get_mut(index)? = Some((Part::Remainder, left));
    }
    let partitions = parts
        .into_iter()
        .zip(&demands.requested)
        .map(|(part, &requested)| {
            let (part, area) = part?;
            let Area {
                sm_count,
                coscheduled,
                ..
            } = area;
            let parts = vec![part];
            Some(PlannedPartition::new(
                facts,
                requested,
                sm_count,
                parts,
                coscheduled,
            ))
        })
        .collect::<Option<Vec<_>>>()?;
    let strategy = if nested.is_empty() {
        SplitStrategy::EqualGroups
    } else {
        SplitStrategy::Nested
    };
    let call = SplitCall::ByCount {
        groups,
        sm_count: size,
        flag: SplitFlag::None,
    };
    Some(Plan {
        nested,
        ..Plan::new(facts, strategy, call, partitions)
    })
}

//! Plans without merging (12.4): equal groups of one split, and splits of what it leaves.
//!
//! The results of a split cannot be split again, but the own resource of a context over one can. So each
//! further split divides what the one before left, through a scaffold context over it. Only one group at a
//! time: several within a part can come out smaller than was asked (measured on an H200, driver 580).

use super::{
    Demands, DeviceFacts, GroupCount, Part, PartitionRequest, Plan, PlannedPartition, SmRequest,
    SplitCall, SplitFlag, SplitStrategy, device_facts::FINE_UNIT,
};
use crate::error::Result;

/// A set of SMs, as far as one can know what a split of it gives.
///
/// The driver makes groups of whole co-scheduled units as far as there are any (measured on an H200, driver
/// 580), so counting them tells which parts still hold one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) sm_count: u32,
    /// SMs that are surely co-scheduled together in it.
    pub(crate) coscheduled: u32,
    /// Whole co-scheduled units that it surely holds.
    units: u32,
    /// SMs of a whole unit.
    unit: u32,
    /// Sizes of its groups are multiples of this; 0 where it is not to be split.
    step: u32,
    /// SMs of its smallest group.
    min: u32,
}

impl Area {
    /// A part that is not to be split.
    pub(crate) fn fixed(sm_count: u32, coscheduled: u32) -> Self {
        Self {
            sm_count,
            coscheduled: coscheduled.min(sm_count),
            units: 0,
            unit: coscheduled,
            step: 0,
            min: 0,
        }
    }

    /// The whole device, of which so many whole units can be split off.
    pub(crate) fn device(facts: &DeviceFacts, units: u32) -> Self {
        let unit = facts.coscheduled();
        Self {
            sm_count: facts.sm_count,
            coscheduled: kept(unit, units).min(facts.sm_count),
            units,
            unit,
            step: unit,
            min: facts.capabilities.granularity.min,
        }
    }

    /// SMs of a group for at least so many: all of them, where that is no more than rounding.
    pub(crate) fn size_of(&self, at_least: u32) -> Option<u32> {
        if at_least > self.sm_count {
            return None;
        }
        if self.step == 0 {
            return Some(self.sm_count);
        }
        let size = at_least.max(self.min).checked_next_multiple_of(self.step)?;
        Some(size.min(self.sm_count))
    }

    /// SMs of the largest group of at most so many.
    fn size_within(&self, most: u32) -> Option<u32> {
        let size = match most.min(self.sm_count) {
            all if all == self.sm_count => all,
            most => most.checked_div(self.step)? * self.step,
        };
        (self.size_of(size) == Some(size)).then_some(size)
    }

    /// One of so many groups of this size, and what they leave: nothing, maybe.
    pub(crate) fn split(&self, groups: u32, size: u32) -> Option<(Self, Self)> {
        let rest = self.sm_count.checked_sub(size.checked_mul(groups)?)?;
        if size == self.sm_count && groups == 1 {
            return Some((*self, self.part(0, 0, FINE_UNIT)));
        }
        if self.step == 0 || self.size_of(size) != Some(size) {
            return None;
        }
        let whole = (size / self.unit).min(self.units / groups.max(1));
        // What is no whole unit is made of halves and quarters, each of which may break one up.
        let pairs = (size - whole * self.unit) / FINE_UNIT;
        let broken = if pairs * FINE_UNIT < self.unit {
            pairs.count_ones()
        } else {
            pairs
        };
        let whole_left = self.units.saturating_sub((whole + broken) * groups);
        // A group of whole units' size is taken for one of whole units (measured on an H200).
        let step = if size.is_multiple_of(self.unit) {
            self.unit
        } else {
            FINE_UNIT
        };
        Some((
            self.part(size, whole, step),
            self.part(rest, whole_left, FINE_UNIT),
        ))
    }

    fn part(&self, sm_count: u32, units: u32, step: u32) -> Self {
        let step = step.min(self.unit);
        let kept = kept(self.unit, units);
        Self {
            sm_count,
            units,
            coscheduled: kept.min(sm_count),
            // Without a whole unit in it, there is nothing to begin a group of whole units with.
            step: if step > kept { 0 } else { step },
            // Where the step is the unit, the device's smallest group holds; a group of pairs is no smaller
            // than its step.
            min: if step == self.unit { self.min } else { step },
            ..*self
        }
    }
}

/// SMs that are surely together where there are so many whole units.
fn kept(unit: u32, units: u32) -> u32 {
    if units > 0 { unit } else { FINE_UNIT.min(unit) }
}

/// The plans, those with the fewest scaffold contexts first.
pub(super) fn plans(
    facts: &DeviceFacts,
    demands: &Demands,
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let granularity = facts.capabilities.granularity;
    let unit = facts.coscheduled();
    let device = Area::device(facts, groups_of(facts, unit, count_groups)?);
    let mut plans: Vec<Plan> = Vec::new();
    let pairs = device.part(0, 0, FINE_UNIT);
    // Whole units for everyone; else only for those that come from the device itself.
    for (step, min) in [(unit, granularity.min), (unit.min(FINE_UNIT), pairs.min)] {
        let from = plans.len();
        for cap in demands.caps(step) {
            let Some(sizes) = demands.sizes(step, min, facts.sm_count, cap) else {
                continue;
            };
            for first in firsts(demands, &sizes, &device) {
                if groups_of(facts, first.size, count_groups)? >= first.groups() {
                    let plan = chain(facts, demands, &sizes, &first, device);
                    plans.extend(plan.filter(|plan| !plans.contains(plan)));
                }
            }
            if plans.len() > from {
                break; // lower targets only make it worse
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

/// The split of the device.
struct First {
    /// SMs of each of its groups.
    size: u32,
    /// The partitions that have a group each. Where there are none, one group is nobody's: what it leaves comes in
    /// pairs.
    members: Vec<usize>,
}

impl First {
    fn groups(&self) -> u32 {
        self.members.len().max(1) as u32
    }
}

/// Every split of the device that makes sense: all partitions of a size, or one alone, larger sizes first; the one
/// with the rest; nobody.
fn firsts(demands: &Demands, sizes: &[u32], device: &Area) -> Vec<First> {
    let mut firsts: Vec<First> = Vec::new();
    let mut order: Vec<(usize, u32)> = sizes.iter().copied().enumerate().collect();
    order.sort_by_key(|(_, size)| std::cmp::Reverse(*size)); // stable
    for (index, size) in order {
        let Some(request) = demands.list.get(index) else {
            continue;
        };
        // What rounds down rounds down here, too, but to no less than the smallest group. The rest may, where
        // nothing else works out.
        let asked = size;
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
            sizes.get(of) == Some(&asked)
                && is_target == Some(request.is_target())
                && first.size == size // that with the rest may be smaller
        });
        match joined.filter(|_| demands.rest != Some(index)) {
            Some(first) => first.members.push(index),
            None => firsts.push(First {
                size,
                members: vec![index],
            }),
        }
    }
    let mut all = Vec::new();
    for first in firsts {
        let alone = first
            .members
            .first()
            .copied()
            .filter(|_| first.members.len() > 1);
        let size = first.size;
        all.push(first);
        all.extend(alone.map(|index| First {
            size,
            members: vec![index],
        }));
    }
    if demands.rest.is_none() {
        all.extend(device.size_of(1).map(|size| First {
            size,
            members: Vec::new(),
        }));
    }
    all
}

/// The first split, and one more for each of the others, until what is left is one of them.
fn chain(
    facts: &DeviceFacts,
    demands: &Demands,
    sizes: &[u32],
    first: &First,
    device: Area,
) -> Option<Plan> {
    let mut parts: Vec<Option<(Part, Area)>> = vec![None; sizes.len()];
    let groups = first.groups();
    let size = first.size;
    let (group, mut left) = device.split(groups, size)?;
    for (group_index, index) in first.members.iter().enumerate() {
        *parts.get_mut(*index)? = Some((Part::Group(group_index), group));
    }
    // Those that need clusters take while there are whole units; larger ones before smaller.
    let mut others: Vec<usize> = (0..sizes.len())
        .filter(|index| !first.members.contains(index) && demands.rest != Some(*index))
        .collect();
    others.sort_by_key(|index| {
        let cluster = demands.list.get(*index).map(|request| request.cluster);
        std::cmp::Reverse((cluster, sizes.get(*index).copied()))
    });
    let rest = demands.rest.filter(|index| !first.members.contains(index));
    let mut nested = Vec::new();
    for (position, index) in others.iter().enumerate() {
        let size = *sizes.get(*index)?;
        let given = left.size_of(size)?;
        let request = demands.list.get(*index)?;
        if given > size && request.is_target() {
            return None;
        }
        // Where the one with the rest has a group, the last has what is left, unless its size is said or its share.
        let is_last = position + 1 == others.len() && rest.is_none();
        let is_at_least = matches!(request.sms, SmRequest::AtLeast(_)) && !request.exact;
        let has_rest = is_last && is_at_least && demands.rest.is_some();
        let part = if given == left.sm_count || has_rest {
            // All that is left: only the last can have it.
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
            Some(PlannedPartition {
                requested,
                sm_count: area.sm_count,
                parts: vec![part],
                coscheduled: area.coscheduled,
                max_cluster: facts.max_cluster(area.coscheduled),
            })
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

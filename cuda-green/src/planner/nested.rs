//! Plans without merging (12.4): equal groups of one split, and splits of what it leaves.
//!
//! The results of a split cannot be split again, but the own resource of a context over one can. So each
//! further split divides what the one before left, through a scaffold context over it. Only one group at a
//! time: several within a part can come out smaller than was asked (measured on an H200, driver 580).

use super::{
    Demands, DeviceFacts, GroupCount, Part, Plan, PlannedPartition, SmRequest, SplitCall,
    SplitStrategy, facts::FINE_UNIT,
};
use crate::Result;

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
            coscheduled,
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
            coscheduled: unit,
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
        let kept = if units > 0 {
            self.unit
        } else {
            FINE_UNIT.min(self.unit)
        };
        Self {
            sm_count,
            units,
            coscheduled: kept,
            // Without a whole unit in it, there is nothing to begin a group of whole units with.
            step: if step > kept { 0 } else { step },
            // Where the step is the unit, the device's smallest group holds; a group of pairs is no smaller
            // than its step.
            min: if step == self.unit { self.min } else { step },
            ..*self
        }
    }
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
        let Some(sizes) = demands.sizes(step, min, facts.sm_count) else {
            continue;
        };
        for first in firsts(demands, &sizes) {
            let possible = match device.size_of(first.size) {
                Some(size) => groups_of(facts, size, count_groups)? >= first.members.len() as u32,
                None => false,
            };
            let plan = possible.then(|| chain(facts, demands, &sizes, &first, device));
            plans.extend(plan.flatten().filter(|plan| !plans.contains(plan)));
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
        count_groups(size, false)
    }
}

/// The partitions that come from the split of the device: some of one size.
struct First {
    size: u32,
    members: Vec<usize>,
}

/// All of a size, for each size; and one alone, where there are several. Larger ones first.
fn firsts(demands: &Demands, sizes: &[u32]) -> Vec<First> {
    let of = |size: u32| {
        let same = sizes.iter().enumerate();
        same.filter(move |(index, other)| **other == size && demands.rest != Some(*index))
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
    };
    let mut all: Vec<u32> = sizes.to_vec();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.dedup();
    let all = all.into_iter().map(|size| (size, of(size)));
    let mut firsts = Vec::new();
    for (size, members) in all.filter(|(_, members)| !members.is_empty()) {
        let alone = members.first().copied().filter(|_| members.len() > 1);
        firsts.push(First { size, members });
        firsts.extend(alone.map(|index| First {
            size,
            members: vec![index],
        }));
    }
    if firsts.is_empty() {
        // The rest alone: the whole device is one group.
        firsts.extend(demands.rest.map(|index| First {
            size: sizes.iter().sum(),
            members: vec![index],
        }));
    }
    firsts
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
    let may_have = |index: usize, size: u32, given: u32| {
        let rounds_up = demands.list.get(index).is_some_and(|request| {
            matches!(request.sms, SmRequest::AtLeast(_) | SmRequest::Share { .. })
        });
        given == size || (given > size && (rounds_up || demands.rest == Some(index)))
    };
    let groups = first.members.len() as u32;
    let size = device.size_of(first.size)?;
    let (group, mut left) = device.split(groups, size)?;
    for (group_index, index) in first.members.iter().enumerate() {
        if !may_have(*index, first.size, size) {
            return None;
        }
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
        if !may_have(*index, size, given) {
            return None;
        }
        let part = if given == left.sm_count {
            // All that is left: only the last can have it.
            if position + 1 < others.len() || rest.is_some() {
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
        if left.sm_count < demands.rest_least() {
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
        min_count: size,
        fine: false,
    };
    Some(Plan {
        nested,
        ..Plan::new(facts, strategy, call, partitions)
    })
}

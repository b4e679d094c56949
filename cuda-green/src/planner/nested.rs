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
        let mut search = Search {
            facts,
            demands,
            count_groups,
            device,
            step,
            min,
            pairs_min: pairs.min,
            found: Vec::new(),
            best: None,
        };
        search.under_one_limit()?;
        if search.best.is_none_or(|best| best.misses_requests()) {
            search.beside_each_first_split()?;
        }
        let mut found = search.found;
        found.retain(|plan| !plans.contains(plan));
        found.sort_by_key(|plan| plan.nested.len()); // stable: the larger first split goes first
        plans.extend(found);
    }
    Ok(plans)
}

/// The search for plans with sizes in multiples of one step.
struct Search<'a> {
    facts: &'a DeviceFacts,
    demands: &'a Demands,
    count_groups: &'a GroupCount<'a>,
    device: Area,
    step: u32,
    min: u32,
    /// SMs of the smallest group of what a split leaves.
    pairs_min: u32,
    found: Vec<Plan>,
    best: Option<Worth>,
}

impl Search<'_> {
    /// Tries all first splits with all targets under one limit, which is lowered until no plan can be better.
    fn under_one_limit(&mut self) -> Result<()> {
        let demands = self.demands;
        for cap in demands.caps(self.step) {
            let Some(sizes) = demands.sizes(self.step, self.min, self.facts.sm_count, |_| cap)
            else {
                continue;
            };
            let bound = Worth::of(self.facts, demands, &sizes);
            if self
                .best
                .is_some_and(|best| best.cannot_be_improved_within(&bound))
            {
                break;
            }
            for first in firsts(demands, &sizes, &self.device) {
                if self.is_possible(&first)? {
                    self.add_chains(&sizes, &first);
                }
            }
        }
        Ok(())
    }

    /// Tries first splits with the other targets lowered each by its own limit, where that may give a better plan.
    fn beside_each_first_split(&mut self) -> Result<()> {
        let demands = self.demands;
        let mut tried: Vec<FirstSplit> = Vec::new();
        for cap in demands.caps(self.facts.coscheduled()) {
            let floor = |request| demands.floor_in(request, self.step, self.min, cap);
            let mut sizes: Vec<u32> = demands.list.iter().map(floor).collect();
            if let Some(size) = demands.rest.and_then(|rest| sizes.get_mut(rest)) {
                *size = demands.rest_least();
            }
            for first in firsts(demands, &sizes, &self.device) {
                if tried.contains(&first) {
                    continue;
                }
                let mut belows = vec![None];
                belows.extend(self.below_minimum(&first).map(Some));
                for below in belows {
                    if let Some(sizes) = self.sizes_beside(&first, below)
                        && self.is_better(&sizes)
                        && self.is_possible(&first)?
                    {
                        self.add_chains(&sizes, &first);
                    }
                }
                tried.push(first);
            }
        }
        Ok(())
    }

    /// Returns the partitions that can have a remainder smaller than any group, each with its size.
    fn below_minimum(&self, first: &FirstSplit) -> impl Iterator<Item = (usize, u32)> {
        let demands = self.demands;
        let most = self.pairs_min.saturating_sub(FINE_UNIT);
        let others = demands
            .distinct()
            .filter(|index| !first.members.contains(index) && demands.rest != Some(*index));
        others.filter_map(move |index| {
            let even = demands.even_size(index)?;
            let size = if demands.list.get(index)?.is_target() {
                even.min(most)
            } else {
                even
            };
            (FINE_UNIT..=most).contains(&size).then_some((index, size))
        })
    }

    /// Returns the sizes that lose least beside the groups of a first split, and beside one smaller than any group.
    fn sizes_beside(&self, first: &FirstSplit, below: Option<(usize, u32)>) -> Option<Vec<u32>> {
        let demands = self.demands;
        let target = first.members.first().and_then(|of| demands.list.get(*of));
        let target = target.filter(|request| request.is_target());
        let reserved = |index: usize| {
            let is_equal = target.is_some() && demands.list.get(index) == target;
            if let Some((_, size)) = below.filter(|(of, _)| *of == index) {
                return Some(size);
            }
            if first.members.contains(&index) || is_equal {
                Some(first.size)
            } else {
                (demands.rest == Some(index)).then(|| demands.rest_least())
            }
        };
        let free = if first.members.is_empty() {
            first.size
        } else {
            0
        };
        let room = self.facts.sm_count.checked_sub(free)?;
        let limits = demands.limits(self.step, self.min, room, reserved)?;
        let limit = |index: usize| limits.get(index).copied().unwrap_or(u32::MAX);
        let mut sizes = demands.sizes(self.step, self.min, room, limit)?;
        if let Some((index, size)) = below {
            *sizes.get_mut(index)? = size;
        }
        Some(sizes)
    }

    fn is_better(&self, sizes: &[u32]) -> bool {
        let bound = Worth::of(self.facts, self.demands, sizes);
        self.best.is_none_or(|best| bound < best)
    }

    /// Returns whether the driver makes as many groups as the first split has.
    fn is_possible(&self, first: &FirstSplit) -> Result<bool> {
        Ok(groups_of(self.facts, first.size, self.count_groups)? >= first.groups())
    }

    /// Adds the plans of a first split.
    fn add_chains(&mut self, sizes: &[u32], first: &FirstSplit) {
        for last in [
            Last::TakesRemainder,
            Last::TakesGroup,
            Last::IsBelowMinimum,
            Last::IsEqualToFirst,
        ] {
            let Some(plan) = Chain::plan(self.facts, self.demands, sizes, first, self.device, last)
            else {
                continue;
            };
            if !self.demands.are_kept_by(&plan) {
                continue;
            }
            let given: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
            let worth = Worth::of(self.facts, self.demands, &given);
            self.best = self.best.map_or(Some(worth), |best| Some(best.min(worth)));
            if !self.found.contains(&plan) {
                self.found.push(plan);
            }
        }
    }
}

fn groups_of(facts: &DeviceFacts, size: u32, count_groups: &GroupCount<'_>) -> Result<u32> {
    if size > facts.sm_count {
        Ok(0)
    } else {
        count_groups(size, SplitFlag::None)
    }
}

/// The split of the device itself, before any nested one.
#[derive(PartialEq, Eq)]
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
    /// A remainder that is smaller than any group.
    IsBelowMinimum,
    /// The remainder, for an equal of the partition that alone has the first group: so it comes nearer to the size of
    /// that. Only for an inexact minimum.
    IsEqualToFirst,
}

/// The first split and one nested split for each other partition, until the remainder is the last.
struct Chain<'a> {
    demands: &'a Demands,
    sizes: &'a [u32],
    first: &'a FirstSplit,
    /// The remainder of the splits so far.
    left: Area,
    /// SMs of the group of each nested split.
    nested: Vec<u32>,
    parts: Vec<Option<(Part, Area)>>,
    /// The partition that takes the rest, until it has a part.
    rest: Option<usize>,
}

impl<'a> Chain<'a> {
    /// Returns the plan of a chain; `None` where the partitions do not come out in such splits.
    fn plan(
        facts: &DeviceFacts,
        demands: &'a Demands,
        sizes: &'a [u32],
        first: &'a FirstSplit,
        device: Area,
        last: Last,
    ) -> Option<Plan> {
        let mut chain = Self::start(demands, sizes, first, device)?;
        let mut others = chain.others();
        if last == Last::IsEqualToFirst {
            let position = others
                .iter()
                .rposition(|index| chain.is_equal_to_first(*index));
            let equal = others.remove(position?);
            others.push(equal);
        }
        if let Some((last_index, before)) = others.split_last() {
            for index in before {
                let size = chain.group_size(*index)?;
                *chain.parts.get_mut(*index)? = Some(chain.split_off(size)?);
            }
            match last {
                Last::IsBelowMinimum => chain.add_below_minimum(*last_index)?,
                _ => chain.add_last(*last_index, last)?,
            }
        }
        if let Some(rest) = chain.rest {
            if chain.left.sm_count < demands.rest_least().max(1) {
                return None;
            }
            *chain.parts.get_mut(rest)? = Some((Part::Remainder, chain.left));
        }
        chain.into_plan(facts)
    }

    /// Splits the device.
    fn start(
        demands: &'a Demands,
        sizes: &'a [u32],
        first: &'a FirstSplit,
        device: Area,
    ) -> Option<Self> {
        let (group, left) = device.split(first.groups(), first.size)?;
        let mut parts: Vec<Option<(Part, Area)>> = vec![None; sizes.len()];
        for (group_index, index) in first.members.iter().enumerate() {
            *parts.get_mut(*index)? = Some((Part::Group(group_index), group));
        }
        Some(Self {
            demands,
            sizes,
            first,
            left,
            nested: Vec::new(),
            parts,
            rest: demands.rest.filter(|index| !first.members.contains(index)),
        })
    }

    /// Returns the partitions that the first split does not have, but for the one that takes the rest, in the order of
    /// their splits: those that need clusters come first, while there are whole units; then larger ones before smaller.
    fn others(&self) -> Vec<usize> {
        let mut others: Vec<usize> = (0..self.sizes.len())
            .filter(|index| {
                !self.first.members.contains(index) && self.demands.rest != Some(*index)
            })
            .collect();
        others.sort_by_key(|index| {
            let cluster = self.demands.list.get(*index).map(|request| request.cluster);
            std::cmp::Reverse((cluster, self.sizes.get(*index).copied()))
        });
        others
    }

    /// Returns the size of a partition's group; `None` where it exceeds a target.
    fn group_size(&self, index: usize) -> Option<u32> {
        let size = *self.sizes.get(index)?;
        let given = self.left.size_of(size)?;
        let exceeds = given > size && self.demands.list.get(index)?.is_target();
        (!exceeds).then_some(given)
    }

    /// Splits one more group off; `None` where no SMs would be left, since those after it need some.
    fn split_off(&mut self, size: u32) -> Option<(Part, Area)> {
        if size == self.left.sm_count {
            return None;
        }
        let (group, left) = self.left.split(1, size)?;
        self.left = left;
        self.nested.push(size);
        let index = self.first.groups() as usize + self.nested.len() - 1;
        Some((Part::Group(index), group))
    }

    /// Returns whether a request is equal to that of the partition with the first group.
    fn is_equal_to_first(&self, index: usize) -> bool {
        let first = self.first.members.first();
        first.is_some_and(|first| self.demands.list.get(*first) == self.demands.list.get(index))
    }

    /// Gives the last of the others a group, or all SMs that are left: if it comes to that; or if they go to an inexact
    /// minimum, and the one that takes the rest, if any, already has a group.
    fn add_last(&mut self, index: usize, last: Last) -> Option<()> {
        let request = self.demands.list.get(index)?;
        let given = self.group_size(index)?;
        let is_last = self.rest.is_none();
        let is_at_least = matches!(request.sms, SmRequest::AtLeast(_)) && !request.exact;
        let takes_all = match last {
            Last::TakesRemainder => self.demands.rest.is_some(),
            Last::IsEqualToFirst => true,
            Last::TakesGroup | Last::IsBelowMinimum => false,
        };
        let all_is_left = given == self.left.sm_count;
        let part = if is_last && (all_is_left || (takes_all && is_at_least)) {
            (Part::Remainder, self.left)
        } else {
            self.split_off(given)?
        };
        *self.parts.get_mut(index)? = Some(part);
        Some(())
    }

    /// Gives the last of the others a remainder that is smaller than any group. The one that takes the rest, if it has
    /// no part yet, has a group before it.
    fn add_below_minimum(&mut self, index: usize) -> Option<()> {
        let size = *self.sizes.get(index)?;
        let even = self.demands.even_size(index)?.min(size);
        if even >= self.left.min {
            return None;
        }
        if let Some(rest) = self.rest.take() {
            let rest_size = self.left.sm_count.checked_sub(even)?;
            let is_group = self.left.size_of(rest_size) == Some(rest_size);
            if !is_group || rest_size < self.demands.rest_least().max(1) {
                return None;
            }
            *self.parts.get_mut(rest)? = Some(self.split_off(rest_size)?);
        }
        *self.parts.get_mut(index)? = Some((Part::Remainder, self.left));
        (self.left.sm_count == even).then_some(())
    }

    fn into_plan(self, facts: &DeviceFacts) -> Option<Plan> {
        let partitions = self
            .parts
            .into_iter()
            .zip(&self.demands.requested)
            .map(|(part, &requested)| {
                let (part, area) = part?;
                Some(PlannedPartition::new(
                    facts,
                    requested,
                    area.sm_count,
                    vec![part],
                    area.coscheduled,
                ))
            })
            .collect::<Option<Vec<_>>>()?;
        let strategy = if self.nested.is_empty() {
            SplitStrategy::EqualGroups
        } else {
            SplitStrategy::Nested
        };
        let call = SplitCall::ByCount {
            groups: self.first.groups(),
            sm_count: self.first.size,
            flag: SplitFlag::None,
        };
        Some(Plan {
            nested: self.nested,
            ..Plan::new(facts, strategy, call, partitions)
        })
    }
}

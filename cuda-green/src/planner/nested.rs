//! Plans without merging: equal groups of one split, and further splits of its remainder. They are the only plans on
//! 12.4, and candidates on every later driver.
//!
//! The results of a split cannot be split again, but the resource of a context over one can. So each further split
//! divides the remainder of the one before, through a scaffold context over it. It makes only one group: within a part,
//! several groups can come out smaller than requested (measured on an H200, driver 580).

mod chain;

use chain::{Chain, FirstSplit, Last};

use super::{
    Area, Demands, DeviceFacts, GroupCount, PartitionRequest, Plan, SplitFlag, demands::grouped,
    device_facts::FINE_UNIT, worth::Worth,
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

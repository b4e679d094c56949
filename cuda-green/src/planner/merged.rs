//! Plans of merged groups (12.5): each partition is made of groups of one split by count.
//!
//! The groups are units of the device's own size where these meet the requests. A chip's topology may allow larger
//! groups that leave less over (an H200: 15 × 8 + 12, but 4 × 32 + 4), so all sizes of groups are tried.

use super::{
    CountedSplit, Demands, DeviceFacts, GroupCount, MergedGroups, Part, Plan, PlannedPartition,
    SmRequest, SplitFlag, targets::Bounds, worth::Worth,
};
use crate::error::Result;

/// Returns the best plan of groups that merge: of units, or of larger groups unless the units ignore co-scheduling.
///
/// Of equally good plans, units come first, since they can change hands later; then larger groups before smaller ones,
/// since more whole units stay together in them.
pub(super) fn plan(
    facts: &DeviceFacts,
    demands: &Demands,
    unit: u32,
    flag: SplitFlag,
    count_groups: &GroupCount<'_>,
) -> Result<Option<Plan>> {
    let best_of = |split| {
        Merging {
            split,
            facts,
            demands,
        }
        .best()
    };
    let units = CountedSplit::of(facts.sm_count, unit, flag, count_groups)?;
    let mut best = best_of(units);
    let needs_no_other = best.as_ref().is_some_and(|(rank, _)| rank.is_met());
    if !units.is_fine() && units.remainder > 0 && !needs_no_other {
        for units in (2..=facts.sm_count / unit).rev() {
            let larger = CountedSplit::of(facts.sm_count, units * unit, flag, count_groups)?;
            let next = best_of(larger);
            // `min_by_key` returns the first of equally good plans.
            best = best.into_iter().chain(next).min_by_key(|(rank, _)| *rank);
        }
    }
    Ok(best.map(|(_, plan)| plan))
}

/// The measure that plans of merged groups are compared by; less is better, and earlier fields count first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    worth: Worth,
    /// Partitions made of the remainder alone, which keeps no clusters.
    without_clusters: usize,
    /// Whether a partition that does not take the rest has the remainder, so that others cannot have it.
    takes_remainder: bool,
    /// SMs above what was requested.
    above: u32,
}

impl Rank {
    /// Returns whether no other size of groups can do better: units round up least.
    fn is_met(&self) -> bool {
        self.worth == Worth::default() && !self.takes_remainder
    }
}

/// The search for the best plan of one split's groups.
struct Merging<'a> {
    split: CountedSplit,
    facts: &'a DeviceFacts,
    demands: &'a Demands,
}

impl Merging<'_> {
    /// Returns the SMs of the smallest partition of such groups.
    fn smallest(&self) -> u32 {
        if self.split.is_fine() {
            self.split.group_sms
        } else {
            self.facts.unit().0
        }
    }

    /// Returns the groups of each partition where `owner`, if any, has the remainder; `None` where there are too few.
    fn shares(&self, owner: Option<usize>) -> Option<Vec<MergedGroups>> {
        if owner.is_some() && self.split.remainder == 0 {
            return None;
        }
        let bounds: Vec<Bounds> = (0..self.demands.list.len())
            .map(|index| self.bounds(index, owner == Some(index)))
            .collect::<Option<_>>()?;
        let entries = bounds.iter().zip(&self.demands.list);
        let of_targets: Vec<Option<Bounds>> = entries
            .map(|(bounds, request)| request.is_target().then_some(*bounds))
            .collect();
        let entries = bounds.iter().zip(&of_targets);
        let fixed: u32 = entries
            .filter(|(_, target)| target.is_none())
            .map(|(bounds, _)| bounds.fewest)
            .sum();
        let groups = self.split.groups.checked_sub(fixed)?;
        let divided = self
            .demands
            .divide(&of_targets, self.split.group_sms, groups)?;
        let mut spare = groups - divided.iter().sum::<u32>();
        let entries = bounds.iter().zip(&of_targets).zip(divided).enumerate();
        let mut shares: Vec<MergedGroups> = entries
            .map(|(index, ((bounds, target), divided))| MergedGroups {
                groups: target.map_or(bounds.fewest, |_| divided),
                remainder: owner == Some(index),
            })
            .collect();
        self.divide_among_shares(&mut shares, &mut spare);
        if let Some(rest) = self.demands.rest
            && (self.facts.remainder_joins() || owner != Some(rest))
        {
            shares.get_mut(rest)?.groups += spare;
        }
        Some(shares)
    }

    /// Returns the numbers of groups that a partition may have. All but targets have the fewest.
    fn bounds(&self, index: usize, has_remainder: bool) -> Option<Bounds> {
        let request = self.demands.list.get(index)?;
        let beside = if has_remainder {
            self.split.remainder
        } else {
            0
        };
        let fewest = self.demands.floor(index).saturating_sub(beside);
        // A partition takes at least one group if it has no remainder, or a cluster that the remainder does not keep.
        let fewest = fewest.div_ceil(self.split.group_sms).max(u32::from(
            !has_remainder || request.cluster > self.facts.coscheduled_left_over(),
        ));
        let most = if request.is_target() {
            let most = self.demands.most(index, self.smallest());
            most.checked_sub(beside)? / self.split.group_sms
        } else {
            fewest
        };
        // A remainder that does not merge is a partition alone.
        let most = if has_remainder && !self.facts.remainder_joins() {
            0
        } else {
            most
        };
        (most >= fewest).then_some(Bounds {
            fewest,
            most,
            beside,
        })
    }

    /// Gives each share but the last its part of what is left by weight, rounded down to groups.
    fn divide_among_shares(&self, shares: &mut [MergedGroups], spare: &mut u32) {
        let weight = |index: usize| {
            self.demands
                .list
                .get(index)
                .map_or(0, |request| request.weight())
        };
        let all: u64 = (0..shares.len()).map(weight).sum();
        let rest = self.demands.rest.filter(|_| all > 0);
        let taken: u32 = shares
            .iter()
            .enumerate()
            .filter(|(index, _)| Some(*index) != rest)
            .map(|(_, share)| self.split.merged_size(*share))
            .sum();
        let left = self
            .facts
            .sm_count
            .saturating_sub(taken)
            .saturating_sub(self.demands.rest_least());
        for (index, share) in shares.iter_mut().enumerate() {
            if weight(index) == 0
                || Some(index) == rest
                || (share.remainder && !self.facts.remainder_joins())
            {
                continue;
            }
            let part = u64::from(left) * weight(index) / all;
            let more = u32::try_from(part).unwrap_or(left) / self.split.group_sms;
            let more = more.min(*spare);
            share.groups += more;
            *spare -= more;
        }
    }

    /// Returns the best plan of these groups over all choices of who has the remainder.
    fn best(&self) -> Option<(Rank, Plan)> {
        let owners = std::iter::once(None).chain(self.demands.distinct().map(Some));
        let assigned = owners.filter_map(|owner| {
            let shares = self.shares(owner)?;
            let sizes = self.split.merged_sizes(&shares);
            // Exact requests must be met exactly, however good the plan is otherwise.
            let mut given = sizes.iter().enumerate();
            if !given.all(|(index, size)| self.demands.is_exact(index, *size)) {
                return None;
            }
            let counts = sizes.iter().zip(&self.demands.list);
            let above = counts.map(|(size, request)| match request.sms {
                SmRequest::AtLeast(count) => size.saturating_sub(count),
                _ => 0,
            });
            let rank = Rank {
                worth: Worth::of(self.facts, self.demands, &sizes),
                without_clusters: shares.iter().filter(|share| share.groups == 0).count(),
                takes_remainder: owner.is_some() && owner != self.demands.rest,
                above: above.sum(),
            };
            Some((rank, shares))
        });
        let (rank, shares) = assigned.min_by_key(|(rank, _)| *rank)?;
        Some((rank, self.plan(&shares)))
    }

    fn plan(&self, shares: &[MergedGroups]) -> Plan {
        let mut next = 0;
        let partitions = shares
            .iter()
            .zip(&self.demands.requested)
            .map(|(share, &requested)| {
                let groups = (next..next + share.groups).map(|group| Part::Group(group as usize));
                next += share.groups;
                let with = share.remainder.then_some(Part::Remainder);
                let coscheduled = if share.groups > 0 {
                    self.facts.coscheduled_by_count(self.split.group_sms)
                } else {
                    self.facts.coscheduled_left_over().min(self.split.remainder)
                };
                let parts = groups.chain(with).collect();
                let sm_count = self.split.merged_size(*share);
                PlannedPartition::new(self.facts, requested, sm_count, parts, coscheduled)
            })
            .collect();
        Plan::new(
            self.facts,
            self.split.strategy(),
            self.split.call(),
            partitions,
        )
    }
}

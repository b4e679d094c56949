//! A chain of splits: the split of the device, then splits of what the one before left.

use crate::planner::{
    Area, Demands, DeviceFacts, Part, Plan, PlannedPartition, SmRequest, SplitCall, SplitFlag,
    SplitStrategy,
};

/// The split of the device itself, before any nested one.
#[derive(PartialEq, Eq)]
pub(super) struct FirstSplit {
    /// SMs of each of its groups.
    pub(super) size: u32,
    /// The partitions that have a group each. If there are none, one group stays free, and the rest of the device can be
    /// split in pairs.
    pub(super) members: Vec<usize>,
}

impl FirstSplit {
    pub(super) fn groups(&self) -> u32 {
        self.members.len().max(1) as u32
    }
}

/// The share of the last partition, where there is one that takes the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
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
pub(super) struct Chain<'a> {
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
    pub(super) fn plan(
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

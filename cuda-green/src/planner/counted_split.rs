//! A split by count whose groups merge (12.5): the groups that there are, and the sizes that they add up to.

use super::{
    plan::SplitStrategy,
    split_call::{GroupCount, SplitCall, SplitFlag},
};
use crate::error::Result;

/// All groups of one size that a split by count gives, and what it leaves over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountedSplit {
    pub(crate) groups: u32,
    /// SMs of a group.
    pub(crate) group_sms: u32,
    /// SMs that no group has.
    pub(crate) remainder: u32,
    pub(crate) flag: SplitFlag,
}

/// Some groups of one split, merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MergedGroups {
    pub(crate) groups: u32,
    /// Whether the remainder of the split is merged with them.
    pub(crate) remainder: bool,
}

impl CountedSplit {
    /// Asks the driver how many groups of this size a split of `total` SMs gives.
    pub(crate) fn of(
        total: u32,
        group_sms: u32,
        flag: SplitFlag,
        count_groups: &GroupCount<'_>,
    ) -> Result<Self> {
        let groups = count_groups(group_sms, flag)?;
        Ok(Self {
            groups,
            group_sms,
            remainder: total.saturating_sub(groups.saturating_mul(group_sms)),
            flag,
        })
    }

    /// Returns the call that makes the split.
    pub(crate) fn call(&self) -> SplitCall {
        SplitCall::ByCount {
            groups: self.groups,
            sm_count: self.group_sms,
            flag: self.flag,
        }
    }

    /// Returns the strategy of a plan whose partitions are merged of its groups.
    pub(crate) fn strategy(&self) -> SplitStrategy {
        if self.is_fine() {
            SplitStrategy::MergedFineUnits
        } else {
            SplitStrategy::MergedUnits
        }
    }

    /// Returns whether its groups ignore co-scheduling.
    pub(super) fn is_fine(&self) -> bool {
        self.flag == SplitFlag::IgnoreCoscheduling
    }

    /// Returns the SMs of some of its groups, merged.
    pub(crate) fn merged_size(&self, merged: MergedGroups) -> u32 {
        let remainder = if merged.remainder { self.remainder } else { 0 };
        merged.groups * self.group_sms + remainder
    }

    /// Returns the SMs of each of these.
    pub(crate) fn merged_sizes(&self, merged: &[MergedGroups]) -> Vec<u32> {
        merged.iter().map(|one| self.merged_size(*one)).collect()
    }
}

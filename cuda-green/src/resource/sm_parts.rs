//! The results of a split, and of its dry run.

use std::fmt;

use super::{check::sizes_in_words, sm::SmResource};
use crate::{
    error::{Error, Result},
    planner::MergedGroups,
};

/// The disjoint results of a split. They may be merged with each other, and with nothing else.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SmParts {
    /// The groups, in the order in which they were asked for.
    pub groups: Vec<SmResource>,
    /// All SMs that no group has. It is not known how many of them are co-scheduled; at least 2 are (measured on an
    /// H200). From 13.1 on it may be split again.
    pub remainder: Option<SmResource>,
}

/// The sizes that a split would give, of which no context can be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SmSizes {
    /// SMs of each group. A group of as many SMs as there are may find none: 0, which a real split refuses.
    pub groups: Vec<u32>,
    /// SMs that no group would have.
    pub remainder: u32,
}

impl SmParts {
    /// Merges the groups in their order; those that are left, and the remainder, become one remainder.
    pub(super) fn merge(self, merged: &[MergedGroups]) -> Result<Self> {
        let mut left = self.groups.into_iter();
        let mut remainder = self.remainder;
        let groups = merged
            .iter()
            .map(|group| {
                let mut parts: Vec<SmResource> =
                    left.by_ref().take(group.groups as usize).collect();
                if group.remainder {
                    parts.extend(remainder.take());
                }
                SmResource::merge(&parts)
            })
            .collect::<Result<_>>()?;
        let rest: Vec<SmResource> = left.chain(remainder).collect();
        Ok(Self {
            groups,
            remainder: match rest.as_slice() {
                [] => None,
                rest => Some(SmResource::merge(rest)?),
            },
        })
    }

    /// Refuses groups that differ from the sizes that the driver announced: they are not handed on in silence.
    pub(super) fn check_sizes(&self, total: u32, announced: &[u32]) -> Result<()> {
        let given: Vec<u32> = self.groups.iter().map(SmResource::sm_count).collect();
        if given == announced {
            return Ok(());
        }
        Err(Error::UnannouncedSizes {
            announced: sizes_in_words(announced),
            given: sizes_in_words(&given),
            total,
        })
    }
}

impl SmSizes {
    /// Returns the sizes of groups out of `total` SMs.
    pub(super) fn of(total: u32, groups: Vec<u32>) -> Self {
        let given: u32 = groups.iter().sum();
        Self {
            remainder: total.saturating_sub(given),
            groups,
        }
    }
}

impl fmt::Display for SmSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for size in &self.groups {
            write!(f, "{size} + ")?;
        }
        write!(f, "{} left over", self.remainder)
    }
}

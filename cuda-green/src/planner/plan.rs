//! Plans: the split of a device, the partitions that it gives, and better plans that were refused.

use std::fmt;

use super::{DeviceFacts, SplitCall};

/// The way in which a plan meets the requested sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SplitStrategy {
    /// One structured split into units, the last of each partition with the SMs beside whole units, merged (13.1).
    StructuredUnits,
    /// One structured split with a size for each group (13.1).
    Structured,
    /// Units, or larger groups of one size, of one split by count, merged (12.5).
    MergedUnits,
    /// The same with units that ignore co-scheduling: exact to 2 SMs, but no clusters above 2.
    MergedFineUnits,
    /// Equal groups of one split by count, and its remainder (12.4; on later drivers where units do not fit the sizes).
    EqualGroups,
    /// Groups of splits within splits: each further one divides the remainder of the one before, through a scaffold
    /// context over it (12.4; on later drivers where units do not fit the sizes).
    Nested,
}

impl SplitStrategy {
    /// Returns whether contexts are made of several parts, so that parts can change hands.
    pub fn merges(self) -> bool {
        matches!(
            self,
            Self::StructuredUnits | Self::MergedUnits | Self::MergedFineUnits
        )
    }
}

impl fmt::Display for SplitStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StructuredUnits => "one structured split into units that merge",
            Self::Structured => "one structured split, a group for each size",
            Self::MergedUnits => "whole units of one split, merged",
            Self::MergedFineUnits => "units of one split that ignore co-scheduling, merged",
            Self::EqualGroups => "equal groups of one split, and what it leaves",
            Self::Nested => "splits within what a split left, through scaffold contexts",
        })
    }
}

/// A part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The group of this index: those of the first split, then one of each nested split.
    Group(usize),
    /// All SMs that no group has; after nested splits, those that the last one left.
    Remainder,
}

/// One partition of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PlannedPartition {
    /// SMs requested, before any rounding to units; for a share or the rest, what the other requests leave.
    pub requested: u32,
    /// SMs it will have.
    pub sm_count: u32,
    /// The parts of the split that it is made of.
    pub parts: Vec<Part>,
    /// SMs that are surely co-scheduled together in it.
    pub coscheduled: u32,
    /// The largest thread-block cluster that it is sure to run, in blocks; 1 before compute capability 9.0,
    /// which has no clusters.
    pub max_cluster: u32,
}

/// A complete split of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Plan {
    /// The way in which the sizes are met.
    pub strategy: SplitStrategy,
    /// The split of the device.
    pub call: SplitCall,
    /// Further splits, each of one group of this many SMs, of what the split before left over. Each needs a
    /// scaffold context over that, since only a context's own resource can be split (0.8 ms and 5 MiB of
    /// device memory each, measured on an H200).
    pub nested: Vec<u32>,
    /// The partitions, in the order of the requests.
    pub partitions: Vec<PlannedPartition>,
    /// SMs left for further contexts.
    pub left_over: u32,
    /// SMs that no context can have.
    pub stranded: u32,
    /// The reason for stranded SMs.
    pub stranded_reason: Option<String>,
    /// Better plans that the driver refused before this one.
    pub refused: Vec<RefusedPlan>,
}

impl PlannedPartition {
    /// Returns a partition of these parts, in which this many SMs are surely co-scheduled together.
    pub(super) fn new(
        facts: &DeviceFacts,
        requested: u32,
        sm_count: u32,
        parts: Vec<Part>,
        coscheduled: u32,
    ) -> Self {
        Self {
            requested,
            sm_count,
            parts,
            coscheduled,
            max_cluster: facts.max_cluster(coscheduled),
        }
    }
}

impl Plan {
    /// Returns a plan, with the SMs that no partition has divided into left over and stranded ones.
    pub(super) fn new(
        facts: &DeviceFacts,
        strategy: SplitStrategy,
        call: SplitCall,
        partitions: Vec<PlannedPartition>,
    ) -> Self {
        let given: u32 = partitions.iter().map(|partition| partition.sm_count).sum();
        let left_over = facts.sm_count.saturating_sub(given);
        let joins = strategy.merges() && facts.remainder_joins();
        let stranded = if facts.is_of_use(left_over) || joins {
            0
        } else {
            left_over
        };
        Self {
            strategy,
            call,
            nested: Vec::new(),
            partitions,
            left_over: left_over - stranded,
            stranded,
            stranded_reason: facts.stranded_reason(stranded),
            refused: Vec::new(),
        }
    }
}

impl Plan {
    /// Returns a plan that was made before, from what tells it from others.
    pub(crate) fn again(
        facts: &DeviceFacts,
        strategy: SplitStrategy,
        call: SplitCall,
        nested: Vec<u32>,
        partitions: Vec<PlannedPartition>,
    ) -> Self {
        Self {
            nested,
            ..Self::new(facts, strategy, call, partitions)
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self
            .partitions
            .iter()
            .map(|partition| partition.sm_count.to_string())
            .collect();
        write!(f, "{} SMs by {}", sizes.join(", "), self.strategy)?;
        if self.left_over > 0 {
            write!(f, "; {} left for further contexts", self.left_over)?;
        }
        if let Some(reason) = &self.stranded_reason {
            write!(f, "; {} stranded: {reason}", self.stranded)?;
        }
        match refusals(&self.refused) {
            Some(refusals) => write!(f, "; {refusals}"),
            None => Ok(()),
        }
    }
}

/// Returns in words which better plans the driver refused; `None` if it refused none.
pub(crate) fn refusals(refused: &[RefusedPlan]) -> Option<String> {
    let plans: Vec<String> = refused.iter().map(RefusedPlan::to_string).collect();
    (!plans.is_empty()).then(|| {
        format!(
            "the driver refused, for the chip's topology (915): {}",
            plans.join("; ")
        )
    })
}

/// Plans of one strategy that the driver refused for the chip's topology (915).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RefusedPlan {
    /// The strategy.
    pub strategy: SplitStrategy,
    /// Number of arrangements of groups that were tried.
    pub arrangements: u32,
}

impl RefusedPlan {
    /// Adds one more refusal to the list.
    pub(crate) fn note(refused: &mut Vec<Self>, strategy: SplitStrategy) {
        match refused.iter_mut().find(|one| one.strategy == strategy) {
            Some(one) => one.arrangements += 1,
            None => refused.push(Self {
                strategy,
                arrangements: 1,
            }),
        }
    }
}

impl fmt::Display for RefusedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.strategy)?;
        if self.arrangements > 1 {
            write!(f, " ({} arrangements)", self.arrangements)?;
        }
        Ok(())
    }
}

//! One call of the driver that splits SMs, as a value: plans and explicit splits alike are executed by it.

use crate::error::Result;

/// One call of the driver that splits SMs into groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SplitCall {
    /// `cuDevSmResourceSplit` with these groups (13.1).
    Structured(Vec<Group>),
    /// `cuDevSmResourceSplitByCount`.
    ByCount {
        /// Groups to ask for.
        groups: u32,
        /// SMs of each.
        sm_count: u32,
        /// The treatment of co-scheduling.
        flag: SplitFlag,
    },
}

/// One group of a structured split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Group {
    /// SMs of the group. 0 asks for as many as there are; no plan does.
    pub sm_count: u32,
    /// SMs that are co-scheduled together in it.
    pub coscheduled: u32,
    /// SMs that are co-scheduled together where the chip allows it; the same as `coscheduled` where no more are preferred.
    pub preferred_coscheduled: u32,
    /// Whether the size may be filled up with SMs that are not co-scheduled.
    pub backfill: bool,
}

/// The flag of a split by count (`CUdevSmResourceSplitByCount_flags`, 12.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SplitFlag {
    /// No flag: groups keep the device's co-scheduling.
    #[default]
    None,
    /// Groups ignore co-scheduling: their sizes are exact to 2 SMs, and clusters above 2 do not run in them.
    #[doc(alias = "CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING")]
    IgnoreCoscheduling,
    /// Groups are co-scheduled for clusters as large as the chip allows. No plan uses it.
    #[doc(alias = "CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE")]
    MaxClusterSize,
}

/// The driver's dry run of a split by count: returns how many groups of at least this many SMs it would make.
pub type GroupCount<'a> = dyn Fn(u32, SplitFlag) -> Result<u32> + 'a;

impl SplitCall {
    /// Returns the SMs that the call asks for, group by group.
    pub fn sizes(&self) -> Vec<u32> {
        match self {
            Self::Structured(groups) => groups.iter().map(|group| group.sm_count).collect(),
            Self::ByCount {
                groups, sm_count, ..
            } => vec![*sm_count; *groups as usize],
        }
    }
}

impl Group {
    /// Returns a group that prefers no larger co-scheduling than it asks for.
    pub(crate) fn new(sm_count: u32, coscheduled: u32, backfill: bool) -> Self {
        Self {
            sm_count,
            coscheduled,
            preferred_coscheduled: coscheduled,
            backfill,
        }
    }
}

//! The facts about a device that plans depend on, and conclusions from them.

use super::{PartitionRequest, SmRequest, SplitFlag};
use crate::capabilities::Capabilities;

/// The facts about a device that plans depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DeviceFacts {
    /// SMs of the device.
    pub sm_count: u32,
    /// Its compute capability: clusters exist from 9.0 on.
    pub compute_capability: (u32, u32),
    /// Capabilities of the driver and the device.
    pub capabilities: Capabilities,
}

/// SMs of a unit that ignores co-scheduling (measured on an H200: 66 × 2; 12.5 and later). In a remainder, no more SMs
/// than this are sure to be co-scheduled together.
pub(super) const FINE_UNIT: u32 = 2;

/// Blocks of the largest cluster that runs on every device with clusters; a kernel must opt in to larger ones.
pub(super) const PORTABLE_CLUSTER: u32 = 8;

/// Returns how many SMs are co-scheduled together in a group of `sm_count` SMs, of at most `most`: as many as its size
/// allows.
pub(crate) fn coscheduled_within(sm_count: u32, most: u32) -> u32 {
    let mut coscheduled = most;
    while coscheduled > sm_count {
        coscheduled /= 2;
    }
    coscheduled
}

impl DeviceFacts {
    /// Returns the facts of a device with this many SMs.
    pub fn new(sm_count: u32, compute_capability: (u32, u32), capabilities: Capabilities) -> Self {
        Self {
            sm_count,
            compute_capability,
            capabilities,
        }
    }

    /// Returns the requests of `n` equal partitions: each targets an `n`th of the device, rounded down to 2 SMs, and the
    /// last takes the rest.
    pub fn equal_targets(&self, n: u32) -> Vec<PartitionRequest> {
        let target = ((self.sm_count / n.max(1)) & !1).max(1);
        (1..=n)
            .map(|i| {
                if i < n {
                    SmRequest::Target(target).into()
                } else {
                    SmRequest::Rest.into()
                }
            })
            .collect()
    }

    /// Returns the unit of which partitions are merged, and the flag of the split into such units.
    ///
    /// On devices with clusters, the unit is the device's own, so that clusters keep working. Before compute capability
    /// 9.0 there are no clusters, so ignoring co-scheduling costs nothing and gives exact sizes.
    pub(crate) fn unit(&self) -> (u32, SplitFlag) {
        let granularity = self.capabilities.granularity;
        if self.has_clusters() || granularity.min <= FINE_UNIT {
            (granularity.min.max(1), SplitFlag::None)
        } else {
            (FINE_UNIT, SplitFlag::IgnoreCoscheduling)
        }
    }

    /// Returns how many SMs are co-scheduled together in a whole unit.
    pub(crate) fn coscheduled(&self) -> u32 {
        self.capabilities.granularity.coscheduled.max(1)
    }

    /// Returns how many SMs are surely co-scheduled together in a group of a split by count. Each group has at least one
    /// whole unit (measured on an H200, driver 580); groups of 2 are pairs.
    pub(crate) fn coscheduled_by_count(&self, size: u32) -> u32 {
        self.coscheduled().min(size)
    }

    /// Returns how many SMs are surely co-scheduled together in the remainder of a split.
    pub(crate) fn coscheduled_left_over(&self) -> u32 {
        FINE_UNIT.min(self.coscheduled())
    }

    /// Returns the largest cluster that is sure to run where this many SMs are co-scheduled together.
    pub(crate) fn max_cluster(&self, coscheduled: u32) -> u32 {
        if self.has_clusters() {
            coscheduled.clamp(1, PORTABLE_CLUSTER)
        } else {
            1
        }
    }

    /// Returns whether the device has thread-block clusters.
    pub(crate) fn has_clusters(&self) -> bool {
        self.compute_capability.0 >= 9
    }

    /// Returns whether this many SMs can be a partition. Where SMs come in pairs, a single one cannot.
    pub(crate) fn is_of_use(&self, sm_count: u32) -> bool {
        sm_count >= self.coscheduled_left_over()
    }

    /// Returns why stranded SMs cannot be in any partition; `None` if there are no stranded SMs.
    pub(crate) fn stranded_reason(&self, stranded: u32) -> Option<String> {
        (stranded > 0).then(|| {
            format!(
                "the device has {} SMs, which come in pairs; {stranded} alone cannot be a partition",
                self.sm_count
            )
        })
    }

    /// Returns whether the remainder of a split merges with its units. From 13.1 on it does not: the header requires equal
    /// co-scheduling in all parts that are merged, and the remainder has its own.
    pub(crate) fn remainder_joins(&self) -> bool {
        self.capabilities.merge && !self.capabilities.structured_split
    }
}

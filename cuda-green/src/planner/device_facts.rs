//! What the planner must know of a device, and what follows from it.

use super::{PartitionRequest, SmRequest, SplitFlag};
use crate::capabilities::Capabilities;

/// What the planner must know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DeviceFacts {
    /// SMs of the device.
    pub sm_count: u32,
    /// Its compute capability: clusters exist from 9.0 on.
    pub compute_capability: (u32, u32),
    /// What driver and device can do.
    pub capabilities: Capabilities,
}

/// Units that ignore co-scheduling have this many SMs (measured on an H200: 66 × 2; 12.5 and later). What a
/// remainder keeps together for sure is no more.
pub(super) const FINE_UNIT: u32 = 2;

/// Clusters of up to 8 blocks run on every device that has clusters; larger ones a kernel must ask for.
pub(super) const PORTABLE_CLUSTER: u32 = 8;

impl DeviceFacts {
    /// The facts of a device of so many SMs and this compute capability, with what it and its driver can do.
    pub fn new(sm_count: u32, compute_capability: (u32, u32), capabilities: Capabilities) -> Self {
        Self {
            sm_count,
            compute_capability,
            capabilities,
        }
    }

    /// The requests of `n` equal partitions: the device's share rounded down to 2, the last takes the rest.
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
    /// Where there are clusters, the unit is the device's own, so that they keep working. Before 9.0
    /// there are none, so ignoring co-scheduling costs nothing and gives exact sizes.
    pub(crate) fn unit(&self) -> (u32, SplitFlag) {
        let granularity = self.capabilities.granularity;
        if self.has_clusters() || granularity.min <= FINE_UNIT {
            (granularity.min.max(1), SplitFlag::None)
        } else {
            (FINE_UNIT, SplitFlag::IgnoreCoscheduling)
        }
    }

    /// SMs that are co-scheduled together in a whole unit.
    pub(crate) fn coscheduled(&self) -> u32 {
        self.capabilities.granularity.coscheduled.max(1)
    }

    /// SMs that are surely co-scheduled together in a group of a split by count: each has at least one whole unit
    /// (measured on an H200, driver 580), and groups of 2 are pairs.
    pub(crate) fn coscheduled_by_count(&self, size: u32) -> u32 {
        self.coscheduled().min(size)
    }

    /// SMs that are surely co-scheduled together in what a split leaves over.
    pub(crate) fn coscheduled_left_over(&self) -> u32 {
        FINE_UNIT.min(self.coscheduled())
    }

    /// The largest cluster that is sure to run on SMs co-scheduled in groups of this size.
    pub(crate) fn max_cluster(&self, coscheduled: u32) -> u32 {
        if self.has_clusters() {
            coscheduled.clamp(1, PORTABLE_CLUSTER)
        } else {
            1
        }
    }

    pub(crate) fn has_clusters(&self) -> bool {
        self.compute_capability.0 >= 9
    }

    /// Whether a part of so many SMs can be a partition by itself. Where SMs come in pairs, no single one can.
    pub(crate) fn is_of_use(&self, sm_count: u32) -> bool {
        sm_count >= self.coscheduled_left_over()
    }

    /// Why so many SMs can be given to nobody; none where there are none.
    pub(crate) fn stranded_reason(&self, stranded: u32) -> Option<String> {
        (stranded > 0).then(|| {
            format!(
                "the device has {} SMs, which come in pairs; {stranded} alone cannot be a partition",
                self.sm_count
            )
        })
    }

    /// Whether units of a split and what it left over can be one context. From 13.1 on the header asks for
    /// equal co-scheduling in all that is merged, which what is left over does not have.
    pub(crate) fn remainder_joins(&self) -> bool {
        self.capabilities.merge && !self.capabilities.structured_split
    }
}

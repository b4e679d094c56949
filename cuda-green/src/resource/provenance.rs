//! Where SMs are from, and in what numbers they come: what a resource is to remember of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use cuda_green_sys::{CUdevResource, CUdevSmResource};

use crate::driver::sm_fields;

/// Which part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Group(u32),
    Remainder,
}

/// Where the SMs are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Asked of a device, a context or a stream: may be split.
    Query,
    /// Parts of this split.
    Split { id: SplitId, structured: bool },
}

/// A number that each split of the process has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SplitId(u64);

impl SplitId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The smallest partition of a resource, and how many of its SMs are co-scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granularity {
    pub(super) min: u32,
    pub(super) alignment: u32,
}

impl Granularity {
    /// What is left where co-scheduling is ignored, and in a remainder (measured on an H200).
    pub(super) const PAIRS: Self = Self {
        min: 2,
        alignment: 2,
    };

    /// The driver's account or, where it gives none (before 13.0, and on 13.0 of a split's parts), another.
    pub(super) fn of(raw: &CUdevResource, otherwise: Self) -> Self {
        let CUdevSmResource {
            minSmPartitionSize: min,
            smCoscheduledAlignment: alignment,
            ..
        } = sm_fields(raw);
        if min > 0 && alignment > 0 {
            Self { min, alignment }
        } else {
            otherwise
        }
    }
}

//! Where SMs are from, and in what numbers they come: what a resource is to remember of itself.

use std::sync::atomic::{AtomicU64, Ordering};

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

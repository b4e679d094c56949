//! The provenance of SMs, which decides whether they can be split, and what they merge with.

use std::sync::atomic::{AtomicU64, Ordering};

/// The provenance of an SM resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provenance {
    /// A query of a device, a context or a stream. It can be split.
    Query,
    /// A split, of which the resource is one part or several.
    Split { id: SplitId, structured: bool },
}

/// A number that is unique among the splits of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SplitId(u64);

impl SplitId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

//! Figures of model slots.

use std::fmt;

use super::ModelNeeds;
use crate::memory::{Latencies, PoolMetrics};

/// One slot, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SlotStatus {
    /// The model's name.
    pub name: String,
    /// What it was loaded with.
    pub needs: ModelNeeds,
    /// The memory that is set aside for it: the limit is its needs, what is used is what its buffers have.
    /// All zero while it is being loaded.
    pub memory: PoolMetrics,
    /// Whether it is loaded, not just being loaded.
    pub loaded: bool,
    /// How often it is pinned.
    pub pins: usize,
    /// How many leases are held.
    pub leases: usize,
}

/// All slots, as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SlotsStatus {
    /// The slots in use, by name.
    pub slots: Vec<SlotStatus>,
    /// How many slots there are.
    pub capacity: usize,
    /// Bytes of the pool that are left.
    pub available: u64,
    /// How often a model was asked for and was there.
    pub hits: u64,
    /// Models that were loaded, and how long that took: evictions, the caller's function, retries.
    pub loads: Latencies,
    /// Models that were evicted.
    pub evictions: u64,
    /// Loads that failed.
    pub failures: u64,
}

/// One line: `2 of 13 slots; loads: 3 at 1.05ms p50, ...; 7 hits, 1 evictions, 0 failures`.
impl fmt::Display for SlotsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            slots,
            capacity,
            hits,
            loads,
            evictions,
            failures,
            ..
        } = self;
        write!(
            f,
            "{} of {capacity} slots; loads: {loads}; {hits} hits, {evictions} evictions, {failures} failures",
            slots.len()
        )
    }
}

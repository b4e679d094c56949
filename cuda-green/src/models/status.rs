//! The status of model slots.

use std::fmt;

use super::ModelNeeds;
use crate::memory::{Latencies, PoolMetrics};

/// The status of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SlotStatus {
    /// The model's name.
    pub name: String,
    /// The needs it was loaded with.
    pub needs: ModelNeeds,
    /// The memory reserved for it: the limit is its needs, the bytes in use are those of its buffers. All zero while it
    /// is being loaded.
    pub memory: PoolMetrics,
    /// Whether it is loaded; false while it is being loaded.
    pub loaded: bool,
    /// The number of pins.
    pub pins: usize,
    /// The number of leases held.
    pub leases: usize,
}

/// The status of all slots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SlotsStatus {
    /// The slots in use, by name.
    pub slots: Vec<SlotStatus>,
    /// The number of slots.
    pub capacity: usize,
    /// Bytes left in the pool.
    pub available: u64,
    /// The number of times a model was asked for and was loaded already.
    pub hits: u64,
    /// The times of successful loads, including evictions, the caller's function and retries.
    pub loads: Latencies,
    /// The number of evictions.
    pub evictions: u64,
    /// The number of failed loads.
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

//! The counters of a manager, for the `metrics` facade.

use std::collections::BTreeMap;

use crate::{
    memory::Latencies,
    sync::{Mutex, MutexGuard},
};

/// The counters of a manager since it was made, under their lock.
#[derive(Default)]
pub(super) struct SharedCounters(Mutex<Counters>);

/// The counters of a manager at one moment.
#[derive(Clone, Default)]
pub(super) struct Counters {
    /// Rebalances, by hand-off: strict, relaxed.
    pub(super) rebalances: [u64; 2],
    /// Rebalances that had to make contexts.
    pub(super) with_new_contexts: u64,
    /// The times that rebalances took.
    pub(super) took: Latencies,
    /// Refusals, by operation and kind.
    pub(super) refusals: BTreeMap<(&'static str, &'static str), u64>,
}

impl SharedCounters {
    pub(super) fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock()
    }
}

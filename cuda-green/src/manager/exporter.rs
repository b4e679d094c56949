//! The exporter of partitions' figures to the `metrics` facade.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use metrics::{Label, counter, gauge, histogram};

use super::{
    counters::Counters, label::label, mode::PartitionMode, partition_manager::SmPartitionManager,
};
use crate::names::HandOff;

/// Exports the figures of managers to the `metrics` facade, for whatever recorder the program has installed.
///
/// Nothing is recorded while contexts are activated or rebalanced: call [`export`](Self::export) as often as the
/// figures are read. The guide on [observing](crate::guide::observing) has a table of all of them.
///
/// ```
/// use cuda_green::{ContextId, Driver, PartitionExporter, RebalanceHint, SmPartitionManager};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let manager = SmPartitionManager::on(&device)?;
/// manager.init_quad_partition()?;
/// let mut exporter = PartitionExporter::default(); // one for all managers of a program
/// manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
/// exporter.export(&manager); // every few seconds
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct PartitionExporter {
    /// The last export of each device, since the facade takes increments.
    exported: BTreeMap<u32, Exported>,
}

#[derive(Default)]
struct Exported {
    counters: Counters,
    partitions: BTreeSet<String>,
}

impl PartitionExporter {
    /// Exports the figures. Counters and the histogram go on from the last time; the gauge of a partition that is
    /// gone is 0.
    pub fn export<Id: Clone + Eq + Debug>(&mut self, manager: &SmPartitionManager<Id>) {
        let status = manager.allocation_status();
        let counters = manager.state.counters.lock().clone();
        let device = manager.device().ordinal();
        let exported = self.exported.entry(device).or_default();
        let device = Label::new("device", device.to_string());
        let with = |labels: &[(&'static str, &str)]| {
            let others = labels.iter();
            let others = others.map(|(name, value)| Label::new(*name, (*value).to_owned()));
            std::iter::once(device.clone())
                .chain(others)
                .collect::<Vec<_>>()
        };

        let is_single = matches!(status.mode, PartitionMode::SingleContext { .. });
        for (name, value) in [
            ("cuda_green_device_sms", f64::from(status.total_sms)),
            ("cuda_green_allocated_sms", f64::from(status.allocated_sms)),
            ("cuda_green_available_sms", f64::from(status.available_sms)),
            ("cuda_green_held_sms", f64::from(status.held_sms)),
            ("cuda_green_stranded_sms", f64::from(status.stranded_sms)),
            ("cuda_green_green_contexts", status.green_contexts as f64),
            (
                "cuda_green_green_context_bytes",
                status.green_context_bytes as f64,
            ),
            (
                "cuda_green_scaffold_contexts",
                status.scaffold_contexts as f64,
            ),
            (
                "cuda_green_single_context_mode",
                f64::from(u8::from(is_single)),
            ),
        ] {
            gauge!(name, with(&[])).set(value);
        }

        let contexts = status.contexts.iter();
        let partitions: BTreeMap<String, u32> =
            contexts.map(|one| (label(&one.id), one.sm_count)).collect();
        let gone = exported
            .partitions
            .iter()
            .filter(|name| !partitions.contains_key(*name));
        let all = partitions
            .iter()
            .map(|(name, sms)| (name, *sms))
            .chain(gone.map(|name| (name, 0)));
        for (name, sms) in all {
            gauge!("cuda_green_partition_sms", with(&[("partition", name)])).set(f64::from(sms));
        }
        exported.partitions = partitions.into_keys().collect();

        let before = std::mem::replace(&mut exported.counters, counters);
        let now = &exported.counters;
        for hand_off in [HandOff::Strict, HandOff::Relaxed] {
            let [now, before] =
                [now, &before].map(|counters| counters.rebalances[hand_off as usize]);
            counter!(
                "cuda_green_rebalances_total",
                with(&[("hand_off", hand_off.label())])
            )
            .increment(since(now, before));
        }
        counter!("cuda_green_rebalances_with_new_contexts_total", with(&[]))
            .increment(since(now.with_new_contexts, before.with_new_contexts));
        for (key @ (operation, kind), count) in &now.refusals {
            let before = before.refusals.get(key).copied().unwrap_or_default();
            counter!(
                "cuda_green_refusals_total",
                with(&[("operation", operation), ("kind", kind)])
            )
            .increment(since(*count, before));
        }
        let histogram = histogram!("cuda_green_rebalance_duration_seconds", with(&[]));
        for (seconds, count) in now.took.since(&before.took).middles() {
            histogram.record_many(seconds, count);
        }
    }
}

/// Returns the increment; the whole number, where another manager began to count from 0.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

impl Debug for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exported")
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

//! The exporter of memory figures to the `metrics` facade.

use std::collections::BTreeMap;

use metrics::{Label, counter, gauge, histogram};

use super::{MemoryReport, MemoryRow};
use crate::memory::Latencies;

/// Records [`MemoryReport`]s in the `metrics` facade, for the recorder that the program has installed.
///
/// Allocating and freeing record nothing and so cost nothing: call [`MemoryExporter::export`] as often as the figures
/// are read. Every metric has the label `name`, the row's name, and for a slot the label `slot`. The guide on
/// [observing](crate::guide::observing) has a table of all metrics.
#[derive(Debug, Default)]
pub struct MemoryExporter {
    /// Each histogram as it was last recorded, since the facade takes only what was added after that.
    recorded: BTreeMap<(String, Option<String>, &'static str), Latencies>,
}

impl MemoryExporter {
    /// Records the figures. Counters and histograms continue from the last time.
    pub fn export(&mut self, report: &MemoryReport) {
        for row in &report.rows {
            let labels = labels(row);
            for (name, value) in row.memory.figures() {
                let name = format!("cuda_green_memory_{name}");
                if name.ends_with("_bytes") {
                    gauge!(name, labels.clone()).set(value as f64);
                } else {
                    counter!(name + "_total", labels.clone()).absolute(value);
                }
            }
            for (name, latencies) in row.memory.latencies() {
                self.record_histogram(row, "memory", name, latencies);
            }
            let Some(slots) = &row.slots else { continue };
            for (name, value) in [
                ("cuda_green_model_hits_total", slots.hits),
                ("cuda_green_model_evictions_total", slots.evictions),
                ("cuda_green_model_failures_total", slots.failures),
            ] {
                counter!(name, labels.clone()).absolute(value);
            }
            self.record_histogram(row, "model", "loads", &slots.loads);
        }
    }

    /// Records what was added to a histogram since the last time.
    fn record_histogram(
        &mut self,
        row: &MemoryRow,
        of: &str,
        name: &'static str,
        latencies: &Latencies,
    ) {
        let key = (row.name.clone(), row.slot.clone(), name);
        let before = self.recorded.insert(key, *latencies).unwrap_or_default();
        // A slot that was loaded again counts from the start.
        let added = latencies.since(&before);
        let histogram = histogram!(format!("cuda_green_{of}_{name}_seconds"), labels(row));
        for (seconds, count) in added.middles() {
            histogram.record_many(seconds, count);
        }
    }
}

fn labels(row: &MemoryRow) -> Vec<Label> {
    let mut labels = vec![Label::new("name", row.name.clone())];
    labels.extend(row.slot.clone().map(|slot| Label::new("slot", slot)));
    labels
}

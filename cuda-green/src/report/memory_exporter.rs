//! Memory figures for the `metrics` facade.

use std::collections::BTreeMap;

use metrics::{Label, counter, gauge, histogram};

use super::{MemoryReport, MemoryRow};
use crate::memory::Latencies;

/// Puts [`MemoryReport`]s into the `metrics` facade, for whatever recorder the program has installed.
///
/// Nothing is recorded while memory is allocated and freed, so there it costs nothing: call
/// [`MemoryExporter::export`] as often as the figures are looked at. Every metric has the label `name`, that
/// of the row, and a slot's `slot`. The guide on [observing](crate::guide::observing) has a table of all of them.
#[derive(Debug, Default)]
pub struct MemoryExporter {
    /// What each histogram had when it was last put out, since the facade takes only what came after.
    told: BTreeMap<(String, Option<String>, &'static str), Latencies>,
}

impl MemoryExporter {
    /// Puts the figures out. Counters and histograms go on from the last time.
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
                self.tell(row, "memory", name, latencies);
            }
            let Some(slots) = &row.slots else { continue };
            for (name, value) in [
                ("cuda_green_model_hits_total", slots.hits),
                ("cuda_green_model_evictions_total", slots.evictions),
                ("cuda_green_model_failures_total", slots.failures),
            ] {
                counter!(name, labels.clone()).absolute(value);
            }
            self.tell(row, "model", "loads", &slots.loads);
        }
    }

    fn tell(&mut self, row: &MemoryRow, of: &str, name: &'static str, latencies: &Latencies) {
        let key = (row.name.clone(), row.slot.clone(), name);
        let before = self.told.insert(key, *latencies).unwrap_or_default();
        // A slot that was loaded anew counts from the start again.
        let news = latencies.since(&before);
        let histogram = histogram!(format!("cuda_green_{of}_{name}_seconds"), labels(row));
        for (seconds, count) in news.middles() {
            histogram.record_many(seconds, count);
        }
    }
}

fn labels(row: &MemoryRow) -> Vec<Label> {
    let mut labels = vec![Label::new("name", row.name.clone())];
    labels.extend(row.slot.clone().map(|slot| Label::new("slot", slot)));
    labels
}

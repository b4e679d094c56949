//! Memory figures for the `metrics` facade.

use std::collections::BTreeMap;

use metrics::{Label, counter, gauge, histogram};

use super::{Latencies, MemoryReport, MemoryRow};

/// Puts [`MemoryReport`]s into the `metrics` facade, for whatever recorder the program has installed.
///
/// Nothing is recorded while memory is allocated and freed, so there it costs nothing: call
/// [`MemoryExporter::export`] as often as the figures are looked at. Every metric has the label `name`, that
/// of the row, and a slot's `slot`:
///
/// - gauges `cuda_green_memory_limit_bytes`, `..._used_bytes`, `..._available_bytes`, `..._reserved_bytes`,
///   `..._high_water_mark_bytes`, `..._from_driver_bytes`, `..._from_driver_high_bytes`, `..._cached_bytes`,
///   `..._free_from_driver_bytes`, `..._largest_free_bytes`, `..._pending_bytes`;
/// - counters `cuda_green_memory_allocations`, `..._deallocations`, `..._cache_hits`, `..._failures`,
///   `..._spills`;
/// - histograms `cuda_green_memory_hits_seconds` (one in 64), `..._misses_seconds`, `..._frees_seconds` (one
///   in 64), in powers of two;
/// - of slots, counters `cuda_green_model_hits`, `cuda_green_model_evictions`, `cuda_green_model_failures`,
///   and the histogram `cuda_green_model_loads_seconds`.
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
                    counter!(name, labels.clone()).absolute(value);
                }
            }
            for (name, latencies) in row.memory.latencies() {
                self.tell(row, "memory", name, latencies);
            }
            let Some(slots) = &row.slots else { continue };
            for (name, value) in [
                ("cuda_green_model_hits", slots.hits),
                ("cuda_green_model_evictions", slots.evictions),
                ("cuda_green_model_failures", slots.failures),
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
        for (below, count) in news.buckets() {
            // The middle of the bucket, which goes from half of it to it.
            let seconds = below.as_secs_f64() * 0.75;
            histogram.record_many(seconds, usize::try_from(count).unwrap_or(usize::MAX));
        }
    }
}

fn labels(row: &MemoryRow) -> Vec<Label> {
    let mut labels = vec![Label::new("name", row.name.clone())];
    labels.extend(row.slot.clone().map(|slot| Label::new("slot", slot)));
    labels
}

//! `/metrics`: the figures of the service, as Prometheus reads them.

use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use cuda_green::{PartitionExporter, SmPartitionManager};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::model::Models;

/// The recorder of this process, and what is exported when somebody reads.
pub struct Figures {
    handle: PrometheusHandle,
    partitions: Mutex<PartitionExporter>,
}

impl Figures {
    /// Makes the recorder, and installs it for the process.
    pub fn install() -> anyhow::Result<Self> {
        let recorder = builder()?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).context("cannot install the metrics")?;
        Ok(Self::of(handle))
    }

    pub fn of(handle: PrometheusHandle) -> Self {
        Self {
            handle,
            partitions: Mutex::default(),
        }
    }

    /// Returns the figures as text.
    pub fn render(&self, models: Option<&Models>, manager: Option<&SmPartitionManager>) -> String {
        for model in models.into_iter().flat_map(Models::all) {
            model.embedder.export_metrics();
        }
        if let Some(manager) = manager {
            let mut partitions = self
                .partitions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            partitions.export(manager);
        }
        self.handle.render()
    }

    /// Makes room: what is recorded is sorted into buckets only here, or when it is read.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Returns the buckets of text-embeddings-inference (`router/src/prometheus.rs`): of durations 35 of a geometric
/// sequence from 15 µs on, of lengths and sizes the powers of 2.
pub fn builder() -> anyhow::Result<PrometheusBuilder> {
    let durations: Vec<f64> = (1..=35).map(|n| 0.000_01 * 1.5_f64.powi(n)).collect();
    let powers = |count: i32| (0..count).map(|n| 2_f64.powi(n)).collect::<Vec<_>>();
    let full = |name: &str| Matcher::Full(name.to_owned());
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("duration".to_owned()), &durations)?
        .set_buckets_for_metric(full("te_request_input_length"), &powers(20))?
        .set_buckets_for_metric(full("te_batch_next_size"), &powers(13))?
        .set_buckets_for_metric(full("te_batch_next_tokens"), &powers(21))?)
}

//! Figures of queues for the `metrics` facade.

use metrics::{Label, counter, gauge};

use crate::stats::{MethodStats, QueueStats, RingStats};

/// Exports the figures of a queue to the recorder of the `metrics` facade, as counters (`cuda_green_queue_…_total`) and
/// gauges. Call [`export`](Self::export) now and then, as for each scrape.
///
/// ```
/// use cuda_green_queue::{QueueExporter, TaskQueues};
///
/// # fn main() -> Result<(), cuda_green_queue::Error> {
/// let queues = TaskQueues::builder().build_for(&[])?;
/// let exporter = QueueExporter::new("pages");
/// exporter.export(&queues.stats());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QueueExporter {
    queue: String,
}

impl QueueExporter {
    /// Makes an exporter of figures with this value of the label `queue`.
    pub fn new(queue: impl Into<String>) -> Self {
        Self {
            queue: queue.into(),
        }
    }

    /// Exports a snapshot.
    pub fn export(&self, stats: &QueueStats) {
        let queue = || vec![Label::new("queue", self.queue.clone())];
        counter!("cuda_green_queue_unknown_methods_total", queue()).absolute(stats.unknown_methods);
        counter!("cuda_green_queue_discarded_total", queue()).absolute(stats.discarded);
        for (way, counts) in [("moved", stats.pointers), ("copied", stats.copies)] {
            let labels = || with(queue(), [("way", way.to_owned())]);
            counter!("cuda_green_queue_cpu_submitted_total", labels()).absolute(counts.submitted);
            counter!("cuda_green_queue_cpu_refused_total", labels()).absolute(counts.refused);
        }
        for device in &stats.devices {
            let labels = || with(queue(), [("device", device.device.to_string())]);
            counter!("cuda_green_queue_invalid_answers_total", labels())
                .absolute(device.invalid_answers);
            for ring in &device.rings {
                export_ring(ring, &labels());
            }
        }
        for method in &stats.methods {
            export_method(method, &queue());
        }
    }
}

fn export_ring(ring: &RingStats, labels: &[Label]) {
    let labels = || {
        with(
            labels.to_vec(),
            [
                ("lane", ring.lane.to_string()),
                ("priority", ring.priority.to_string()),
            ],
        )
    };
    counter!("cuda_green_queue_taken_total", labels()).absolute(ring.taken);
    counter!("cuda_green_queue_out_of_jobs_total", labels()).absolute(ring.out_of_jobs);
    gauge!("cuda_green_queue_deepest", labels()).set(ring.deepest as f64);
    // Those of a device that is lost are not known, which is not zero.
    if let Some(submitted) = ring.submitted {
        counter!("cuda_green_queue_submitted_total", labels()).absolute(submitted);
    }
    if let Some(refused) = ring.refused {
        counter!("cuda_green_queue_refused_total", labels()).absolute(refused);
    }
}

fn export_method(method: &MethodStats, labels: &[Label]) {
    let labels = |more: &[(&'static str, &str)]| {
        let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
        with(
            with(labels.to_vec(), [("task", method.name.to_owned())]),
            more,
        )
    };
    for (outcome, count) in [
        ("done", method.done),
        ("failed", method.failed),
        ("panicked", method.panicked),
        ("bad_payload", method.bad_payloads),
    ] {
        counter!(
            "cuda_green_queue_handled_total",
            labels(&[("outcome", outcome)])
        )
        .absolute(count);
    }
    for (name, histogram) in [
        ("cuda_green_queue_waiting_seconds", &method.waiting),
        ("cuda_green_queue_handling_seconds", &method.handling),
    ] {
        if histogram.count() == 0 {
            continue;
        }
        for (quantile, share) in [("0.5", 0.5), ("0.99", 0.99), ("1", 1.0)] {
            gauge!(name, labels(&[("quantile", quantile)]))
                .set(histogram.percentile(share).as_secs_f64());
        }
    }
}

fn with(
    mut labels: Vec<Label>,
    more: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<Label> {
    let more = more.into_iter();
    labels.extend(more.map(|(key, value)| Label::new(key, value)));
    labels
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::tests::{Double, builder};
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    type Values = Arc<Mutex<BTreeMap<String, f64>>>;

    #[derive(Default)]
    struct Map(Values);

    struct Entry(String, Values);

    impl Entry {
        fn put(&self, value: f64) {
            self.1.lock().unwrap().insert(self.0.clone(), value);
        }
    }

    impl CounterFn for Entry {
        fn increment(&self, _: u64) {
            unreachable!("figures are totals");
        }

        fn absolute(&self, value: u64) {
            self.put(value as f64);
        }
    }

    impl GaugeFn for Entry {
        fn increment(&self, _: f64) {
            unreachable!("figures are totals");
        }

        fn decrement(&self, _: f64) {
            unreachable!("figures are totals");
        }

        fn set(&self, value: f64) {
            self.put(value);
        }
    }

    impl Map {
        fn entry(&self, key: &Key) -> Arc<Entry> {
            let labels = key
                .labels()
                .map(|label| format!(" {}={}", label.key(), label.value()));
            let name = key.name().to_owned() + &labels.collect::<String>();
            Arc::new(Entry(name, self.0.clone()))
        }
    }

    impl Recorder for Map {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.entry(key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.entry(key))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn figures_are_exported_with_their_labels() {
        let queues = builder().build_for(&[]).unwrap();
        for n in 0..3 {
            queues.submit(Double(n)).unwrap().wait().unwrap();
        }
        let submitter = queues.submitter().clone();
        queues.shutdown().unwrap();
        let recorder = Map::default();
        metrics::with_local_recorder(&recorder, || {
            QueueExporter::new("one").export(&submitter.stats());
        });
        let values = recorder.0.lock().unwrap();
        let task = std::any::type_name::<Double>();
        for (key, value) in [
            (
                "cuda_green_queue_cpu_submitted_total queue=one way=moved".to_owned(),
                3.0,
            ),
            (
                "cuda_green_queue_cpu_submitted_total queue=one way=copied".to_owned(),
                0.0,
            ),
            (
                format!("cuda_green_queue_handled_total queue=one task={task} outcome=done"),
                3.0,
            ),
            (
                format!("cuda_green_queue_handled_total queue=one task={task} outcome=failed"),
                0.0,
            ),
        ] {
            assert_eq!(values.get(&key), Some(&value), "{key}: {values:#?}");
        }
        let slowest = format!("cuda_green_queue_handling_seconds queue=one task={task} quantile=1");
        assert!(values.contains_key(&slowest), "{values:#?}");
    }
}

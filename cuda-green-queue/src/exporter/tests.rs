//! What the recorder of the `metrics` facade is told.

use super::*;
use crate::tests::{Double, builder};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString,
    Unit,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

type Values = Arc<Mutex<BTreeMap<String, f64>>>;

/// A metric's kind, name and description.
type Described = Arc<Mutex<BTreeMap<String, (&'static str, String)>>>;

#[derive(Default)]
struct Map(Values, Described);

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
    fn describe(&self, kind: &'static str, name: &KeyName, text: &str) {
        let described = (kind, text.to_owned());
        self.1
            .lock()
            .unwrap()
            .insert(name.as_str().to_owned(), described);
    }

    fn entry(&self, key: &Key) -> Arc<Entry> {
        let labels = key
            .labels()
            .map(|label| format!(" {}={}", label.key(), label.value()));
        let name = key.name().to_owned() + &labels.collect::<String>();
        Arc::new(Entry(name, self.0.clone()))
    }
}

impl Recorder for Map {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe("counter", &name, &text);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe("gauge", &name, &text);
    }

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

/// Every metric that a queue with a device exports is described, and stands in the documentation with the same words.
#[test]
fn all_that_is_exported_is_described() {
    let gpu = crate::tests::gpu::Gpu::new("h200@13.0", |_| {});
    let queue = builder().build(&gpu.device).unwrap();
    queue.submit(Double(1)).unwrap().wait().unwrap();
    let stats = queue.shutdown().unwrap();
    let recorder = Map::default();
    metrics::with_local_recorder(&recorder, || QueueExporter::new("one").export(&stats));
    let exported: std::collections::BTreeSet<String> = recorder
        .0
        .lock()
        .unwrap()
        .keys()
        .filter_map(|key| key.split(' ').next().map(str::to_owned))
        .collect();
    let described = recorder.1.lock().unwrap();
    assert_eq!(exported, described.keys().cloned().collect());
    let documentation = include_str!("../exporter.rs");
    for (name, (kind, text)) in described.iter() {
        let row = documentation
            .lines()
            .find(|line| line.contains(&format!("| `{name}` | {kind} |")));
        let row = row.unwrap_or_else(|| panic!("{name}, a {kind}, is not documented"));
        assert!(row.ends_with(&format!("| {text} |")), "{row}\n{text}");
    }
}

//! What pools and slots tell the world, behind the features `metrics`, `serde` and `tracing`.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // helpers of tests

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
};

use cuda_green::{
    ContextId, Driver, MemoryBudget, MemoryExporter, MemoryReport, SmPartitionManager, sim::Sim,
};

mod models;

use models::{MIB, needs, slots};

#[test]
fn a_report_is_a_table_and_json() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let report = MemoryReport::default().with_slots("embedding", &slots(&simulator));
    let json = serde_json::to_value(&report).unwrap();
    let [pool, slot] = [0, 1].map(|row| &json["rows"][row]);
    assert_eq!(
        (pool["name"].as_str(), slot["slot"].as_str()),
        (Some("embedding"), Some("second"))
    );
    assert_eq!(pool["memory"]["reserved"], 60 * MIB);
    assert_eq!(pool["pressure"], "Medium");
    assert_eq!(
        (&slot["memory"]["used"], &slot["memory"]["limit"]),
        (&1_000_000.into(), &(60 * MIB).into())
    );
    let of_slots = &pool["slots"];
    assert_eq!(
        (
            &of_slots["hits"],
            &of_slots["evictions"],
            &of_slots["failures"]
        ),
        (&1.into(), &1.into(), &1.into())
    );
    let loads: u64 = of_slots["loads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[1].as_u64().unwrap())
        .sum();
    assert_eq!(loads, 2);
    let table = report.to_string();
    let line = |start: &str| {
        let found = table.lines().find(|line| line.starts_with(start));
        found
            .unwrap_or_else(|| panic!("{table}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        line("embedding")[..4],
        ["embedding", "100.0", "60.0", "60.0"]
    );
    assert_eq!(line("  second")[..4], ["second", "60.0", "1.0", "0.0"]);
    assert!(
        table.contains("1 of 13 slots") && table.contains("1 hits, 1 evictions, 1 failures"),
        "{table}"
    );
}

#[test]
fn a_manager_reports_its_contexts_under_their_budget() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let budget = MemoryBudget::new(20 << 30).unwrap();
    let manager = SmPartitionManager::on(&device)
        .unwrap()
        .with_memory_budget(&budget)
        .unwrap();
    manager.init_quad_partition().unwrap();
    let dream = manager.get_context(ContextId::Dream).unwrap();
    let _buffer = dream.memory().unwrap().allocate(1 << 30).unwrap();
    let report = manager.memory_report();
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| (&*row.name, row.memory.used))
        .collect();
    assert_eq!(
        rows,
        [("device", 1 << 30), ("Dream", 1 << 30)],
        "the others have no pool"
    );
}

type Key = (String, Vec<(String, String)>);

/// A recorder that keeps what it is given.
#[derive(Default)]
struct Recorder(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    counters: BTreeMap<Key, Arc<std::sync::atomic::AtomicU64>>,
    gauges: BTreeMap<Key, Arc<std::sync::atomic::AtomicU64>>,
    histograms: BTreeMap<Key, Arc<Samples>>,
}

#[derive(Default)]
struct Samples(Mutex<Vec<f64>>);

impl metrics::HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

fn key(key: &metrics::Key) -> Key {
    let labels = key
        .labels()
        .map(|label| (label.key().into(), label.value().into()));
    (key.name().into(), labels.collect())
}

impl metrics::Recorder for Recorder {
    fn describe_counter(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_gauge(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_histogram(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn register_counter(&self, name: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(
            self.0
                .lock()
                .unwrap()
                .counters
                .entry(key(name))
                .or_default()
                .clone(),
        )
    }
    fn register_gauge(&self, name: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(
            self.0
                .lock()
                .unwrap()
                .gauges
                .entry(key(name))
                .or_default()
                .clone(),
        )
    }
    fn register_histogram(
        &self,
        name: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        metrics::Histogram::from_arc(
            self.0
                .lock()
                .unwrap()
                .histograms
                .entry(key(name))
                .or_default()
                .clone(),
        )
    }
}

impl Recorder {
    fn gauge(&self, name: &str, slot: Option<&str>) -> f64 {
        f64::from_bits(self.0.lock().unwrap().gauges[&Self::key(name, slot)].load(Ordering::SeqCst))
    }
    fn counter(&self, name: &str, slot: Option<&str>) -> u64 {
        self.0.lock().unwrap().counters[&Self::key(name, slot)].load(Ordering::SeqCst)
    }
    fn samples(&self, name: &str, slot: Option<&str>) -> Vec<f64> {
        let kept = self.0.lock().unwrap();
        let samples = kept.histograms[&Self::key(name, slot)].0.lock().unwrap();
        samples.clone()
    }
    fn key(name: &str, slot: Option<&str>) -> Key {
        let mut labels = vec![("name".to_owned(), "embedding".to_owned())];
        labels.extend(slot.map(|slot| ("slot".to_owned(), slot.to_owned())));
        (format!("cuda_green_{name}"), labels)
    }
}

/// Twice, so that what is told as an increase must be no more than that.
#[test]
fn the_metrics_facade_hears_the_figures() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let slots = slots(&simulator);
    let (recorder, mut exporter) = (Recorder::default(), MemoryExporter::default());
    let mut export = || {
        metrics::with_local_recorder(&recorder, || {
            exporter.export(&MemoryReport::default().with_slots("embedding", &slots));
        });
    };
    export();
    assert_eq!(recorder.gauge("memory_used_bytes", None), 60.0 * MIB as f64);
    assert_eq!(recorder.gauge("memory_used_bytes", Some("second")), 1e6);
    assert_eq!(recorder.counter("memory_allocations", Some("second")), 1);
    assert_eq!(recorder.counter("model_evictions", None), 1);
    assert_eq!(recorder.samples("model_loads_seconds", None).len(), 2);
    export();
    assert_eq!(
        recorder.samples("model_loads_seconds", None).len(),
        2,
        "nothing is new"
    );
    let buffer = slots.pool().allocate(MIB as usize).unwrap();
    for _ in 0..64 * 10 {
        drop(slots.pool().allocate(5_000).unwrap());
    }
    export();
    let metrics = slots.pool().metrics();
    assert_eq!(recorder.gauge("memory_used_bytes", None), (61 * MIB) as f64);
    assert_eq!(
        recorder.counter("memory_allocations", None),
        metrics.allocations
    );
    let hits = recorder.samples("memory_hits_seconds", None);
    assert_eq!(hits.len() as u64, metrics.hits.count());
    assert!(
        (9..=11).contains(&hits.len()),
        "one in 64 of 640, but for a miss: {}",
        hits.len()
    );
    assert_eq!(
        recorder.samples("memory_frees_seconds", None).len() as u64,
        metrics.frees.count()
    );
    assert!(hits.iter().all(|seconds| (1e-9..10.0).contains(seconds)));
    drop(buffer);
    // A model that comes again counts from the start.
    slots.evict("second").unwrap();
    let again = slots.get_or_load("second", needs(60), |pool| {
        let three: Result<Vec<_>, _> = (0..3).map(|_| pool.allocate(100_000)).collect();
        three?.pop().ok_or(cuda_green::Error::ForeignBuffer)
    });
    drop(again.unwrap());
    let before = recorder
        .samples("memory_misses_seconds", Some("second"))
        .len();
    export();
    assert!(
        recorder
            .samples("memory_misses_seconds", Some("second"))
            .len()
            > before
    );
}

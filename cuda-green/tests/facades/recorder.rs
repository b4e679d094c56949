//! A recorder for the `metrics` facade that keeps what it is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, HistogramFn, KeyName, Metadata, SharedString, Unit};

/// A metric's name and its labels.
type Key = (String, Vec<(String, String)>);

#[derive(Default)]
pub struct Recorder(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    counters: BTreeMap<Key, Arc<AtomicU64>>,
    gauges: BTreeMap<Key, Arc<AtomicU64>>,
    histograms: BTreeMap<Key, Arc<Samples>>,
}

#[derive(Default)]
struct Samples(Mutex<Vec<f64>>);

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

fn key(key: &metrics::Key) -> Key {
    let labels = key.labels();
    let labels = labels.map(|label| (label.key().into(), label.value().into()));
    (key.name().into(), labels.collect())
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, name: &metrics::Key, _: &Metadata<'_>) -> Counter {
        let mut kept = self.0.lock().unwrap();
        Counter::from_arc(kept.counters.entry(key(name)).or_default().clone())
    }
    fn register_gauge(&self, name: &metrics::Key, _: &Metadata<'_>) -> Gauge {
        let mut kept = self.0.lock().unwrap();
        Gauge::from_arc(kept.gauges.entry(key(name)).or_default().clone())
    }
    fn register_histogram(&self, name: &metrics::Key, _: &Metadata<'_>) -> Histogram {
        let mut kept = self.0.lock().unwrap();
        Histogram::from_arc(kept.histograms.entry(key(name)).or_default().clone())
    }
}

/// The key of a metric of this crate, named without its prefix.
fn of(name: &str, labels: &[(&str, &str)]) -> Key {
    let labels = labels.iter();
    let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    (format!("cuda_green_{name}"), labels.collect())
}

impl Recorder {
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let kept = self.0.lock().unwrap();
        f64::from_bits(kept.gauges[&of(name, labels)].load(Ordering::SeqCst))
    }

    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.0.lock().unwrap().counters[&of(name, labels)].load(Ordering::SeqCst)
    }

    pub fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let kept = self.0.lock().unwrap();
        let samples = kept.histograms[&of(name, labels)].0.lock().unwrap();
        samples.clone()
    }

    /// The kind, the name and the labels' names of every metric, as the guide's table has them.
    pub fn table(&self) -> BTreeSet<String> {
        let kept = self.0.lock().unwrap();
        let counters = kept.counters.keys().map(|key| ("counter", key));
        let gauges = kept.gauges.keys().map(|key| ("gauge", key));
        let histograms = kept.histograms.keys().map(|key| ("histogram", key));
        let all = counters.chain(gauges).chain(histograms);
        let row = |(kind, (name, labels)): (&str, &Key)| {
            let labels: Vec<_> = labels.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("| `{name}` | {kind} | {} |", labels.join(", "))
        };
        all.map(row).collect()
    }
}

/// The rows of the guide's table whose names begin so, without what they say.
pub fn documented(prefix: &str) -> BTreeSet<String> {
    let guide = include_str!("../../guide/observing.md");
    let rows = guide
        .lines()
        .filter(|line| line.starts_with(&format!("| `{prefix}")));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').take(4).collect();
        cells.join("|") + "|"
    };
    rows.map(row).collect()
}

//! What the facades and `serde` are told of the service.
//!
//! Apart from `library`: `tracing` remembers for the whole process which spans anybody wants.

#![allow(clippy::unwrap_used, clippy::panic)] // tests

#[allow(dead_code)] // as `library` needs it
#[path = "library/fake_encoder.rs"]
mod fake_encoder;
#[allow(dead_code)] // as `library` needs it
#[path = "library/support.rs"]
mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cuda_green::{Driver, MemoryExporter, SmPartitionManager, sim::Sim};
use cuda_green_embed::{
    ElasticOptions, Embedder, EmbeddingPipeline, EncoderOptions, Error, Lane, LaneLayouts,
    MemoryCache, ModelLibrary, ModelSpec, model::BertConfig,
};
use fake_encoder::FakeEncoder;
use support::SmallModel;

/// Lets one test run at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Layouts that are what is asked.
struct Always;

impl LaneLayouts for Always {
    fn widen(&self) -> Result<(), Error> {
        Ok(())
    }

    fn restore(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Returns a service that takes numbers as texts.
fn service() -> Embedder {
    let tokenize = |text: &str| {
        let token = |word: &str| {
            word.parse().map_err(|_| Error::Tokenize {
                text: 0,
                reason: "no number".to_owned(),
            })
        };
        text.split(' ').map(token).collect()
    };
    let encoder = || Arc::new(FakeEncoder::new());
    let builder = Embedder::builder()
        .tokenize_with(tokenize)
        .elastic_with(ElasticOptions::default(), Arc::new(Always));
    builder.build_with(encoder(), encoder()).unwrap()
}

#[test]
fn the_status_is_serialised() {
    let _alone = alone();
    let embedder = service();
    embedder.embed("1").wait().unwrap();
    let status = serde_json::to_value(embedder.status()).unwrap();
    assert_eq!(status["mode"], "own_encoders");
    assert_eq!(status["interactive"]["done"], 1);
    assert_eq!(status["elastic"]["layout"], "fixed");
    assert_eq!(status["gpus"][0]["interactive"]["batches"], 1);
    assert!(status["dead"].is_null() && status["bulk"]["sms"].is_null());
}

#[derive(Default)]
struct Recorder {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    histograms: Mutex<BTreeMap<String, Arc<Samples>>>,
}

#[derive(Default)]
struct Samples(Mutex<Vec<f64>>);

impl metrics::HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

/// Returns the name and the labels' values.
fn name(key: &metrics::Key) -> String {
    let labels = key.labels().map(|label| format!(" {}", label.value()));
    format!("{}{}", key.name(), labels.collect::<String>())
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
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        let mut kept = self.counters.lock().unwrap();
        metrics::Counter::from_arc(kept.entry(name(key)).or_default().clone())
    }
    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        let mut kept = self.gauges.lock().unwrap();
        metrics::Gauge::from_arc(kept.entry(name(key)).or_default().clone())
    }
    fn register_histogram(
        &self,
        key: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        let mut kept = self.histograms.lock().unwrap();
        metrics::Histogram::from_arc(kept.entry(name(key)).or_default().clone())
    }
}

impl Recorder {
    fn samples(&self, name: &str) -> Vec<f64> {
        self.histograms.lock().unwrap()[name]
            .0
            .lock()
            .unwrap()
            .clone()
    }
}

#[test]
fn the_figures_have_the_names_of_tei_s_dashboards() {
    let _alone = alone();
    let recorder = Recorder::default();
    let embedder = service();
    // All of a blocking request happens on this thread.
    metrics::with_local_recorder(&recorder, || {
        embedder.embed("1 2 3").wait().unwrap();
        let texts = ["4 5", "6", "no number"];
        embedder.interactive().embed_batch(&texts).wait().unwrap();
        embedder.export_metrics();
    });
    let counter = |name: &str| recorder.counters.lock().unwrap()[name].load(Ordering::SeqCst);
    let gauge = |name: &str| {
        let bits = recorder.gauges.lock().unwrap()[name].load(Ordering::SeqCst);
        f64::from_bits(bits)
    };
    assert_eq!(counter("te_request_count single interactive"), 1);
    assert_eq!(counter("te_request_count batch interactive"), 1);
    assert_eq!(counter("te_request_success single interactive"), 1);
    // A text of the list failed.
    assert!(
        !recorder
            .counters
            .lock()
            .unwrap()
            .contains_key("te_request_success batch interactive")
    );
    assert_eq!(counter("te_request_failure tokenization interactive"), 1);
    assert_eq!(counter("te_embed_count interactive"), 4);
    assert_eq!(counter("te_embed_success interactive"), 3);
    let mut lengths = recorder.samples("te_request_input_length interactive");
    lengths.sort_by(f64::total_cmp);
    assert_eq!(lengths, [1.0, 2.0, 3.0]);
    for part in ["", "tokenization_", "queue_", "inference_"] {
        let name = format!("te_embed_{part}duration interactive");
        assert_eq!(recorder.samples(&name).len(), 3, "{name}");
    }
    assert_eq!(
        recorder.samples("te_batch_next_size interactive"),
        [1.0, 2.0]
    );
    assert_eq!(
        recorder.samples("te_batch_next_tokens interactive"),
        [3.0, 3.0]
    );
    let parts = [
        "tokenization_duration",
        "queue_duration",
        "inference_duration",
    ];
    let sum: f64 = parts
        .iter()
        .map(|part| recorder.samples(&format!("te_request_{part} interactive"))[0])
        .sum();
    let [whole] = recorder.samples("te_request_duration interactive")[..] else {
        panic!("one request succeeded");
    };
    assert!(sum > 0.0 && sum <= whole, "{sum} {whole}");
    assert_eq!(gauge("te_queue_size interactive"), 0.0);
    assert_eq!(gauge("cuda_green_embed_single_context_mode"), 0.0);
    assert_eq!(gauge("cuda_green_embed_dead"), 0.0);
    // Nothing asked for bulk work.
    assert_eq!(gauge("cuda_green_embed_wide"), 0.0);
    assert_eq!(counter("cuda_green_embed_rebalances"), 0);
    assert_eq!(counter("cuda_green_embed_failed_rebalances"), 0);
    assert_eq!(gauge("cuda_green_embed_gpu_failed bulk 0"), 0.0);
    assert_eq!(counter("cuda_green_embed_texts interactive done"), 3);
    assert_eq!(counter("cuda_green_embed_texts interactive failed"), 1);
    assert_eq!(counter("cuda_green_embed_texts bulk overloaded"), 0);
}

#[test]
fn a_library_s_figures_are_told_apart_by_model() {
    let _alone = alone();
    let mut config = BertConfig::of(32, 1, 1);
    (
        config.intermediate_size,
        config.vocabulary,
        config.positions,
    ) = (32, 16, 16);
    let folders = [1, 2].map(|seed| SmallModel::seeded(config.clone(), seed));
    let sim = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&sim).unwrap().device(0).unwrap();
    let manager = Arc::new(SmPartitionManager::on(&device).unwrap());
    let sizes = EncoderOptions::default().max_tokens(16);
    let options = Embedder::builder()
        .encoder(Lane::Interactive, sizes)
        .encoder(Lane::Bulk, sizes);
    let library = ["a", "b"].into_iter().zip(&folders).fold(
        ModelLibrary::builder(manager),
        |library, (name, folder)| {
            library.model(ModelSpec::new(name, folder.path()).options(options.clone()))
        },
    );
    let library = library.build().unwrap();
    let recorder = Recorder::default();
    metrics::with_local_recorder(&recorder, || {
        for (name, texts) in [("a", 1), ("b", 3)] {
            let model = library.get(Some(name)).unwrap();
            for _ in 0..texts {
                model.embed("d").wait().unwrap();
            }
            model.export_metrics();
        }
        MemoryExporter::default().export(&library.memory_report());
    });
    let counter = |name: &str| recorder.counters.lock().unwrap()[name].load(Ordering::SeqCst);
    assert_eq!(counter("cuda_green_embed_texts interactive a done"), 1);
    assert_eq!(counter("cuda_green_embed_texts interactive b done"), 3);
    assert_eq!(counter("cuda_green_model_evictions_total models"), 0);
    assert_eq!(
        recorder
            .samples("cuda_green_model_loads_seconds models")
            .len(),
        2
    );
    let gauges = recorder.gauges.lock().unwrap();
    for gauge in ["te_queue_size interactive b", "cuda_green_embed_dead b"] {
        assert!(gauges.contains_key(gauge), "{gauge}: {gauges:?}");
    }
    let status = serde_json::to_value(library.status()).unwrap();
    assert_eq!(status["default_model"], "a");
    assert_eq!(status["models"][1]["state"], "loaded");
}

#[test]
fn the_cache_s_hits_are_counted() {
    let _alone = alone();
    let pipeline = EmbeddingPipeline::builder()
        .service("one", Arc::new(service()))
        .cache(MemoryCache::new(1 << 20))
        .build()
        .unwrap();
    for text in ["1", "1", "2", "no number"] {
        drop(pipeline.embed(text).wait());
    }
    let recorder = Recorder::default();
    metrics::with_local_recorder(&recorder, || pipeline.export_metrics());
    let counter = |name: &str| recorder.counters.lock().unwrap()[name].load(Ordering::SeqCst);
    assert_eq!(counter("cuda_green_embed_cache_lookups hit"), 1);
    assert_eq!(counter("cuda_green_embed_cache_lookups miss"), 3);
    assert_eq!(counter("cuda_green_embed_pipeline_texts done"), 3);
    assert_eq!(counter("cuda_green_embed_pipeline_texts failed"), 1);
    let gauge = recorder.gauges.lock().unwrap()["cuda_green_embed_cache_entries"].clone();
    assert_eq!(f64::from_bits(gauge.load(Ordering::SeqCst)), 2.0);
    let status = serde_json::to_value(pipeline.status()).unwrap();
    assert_eq!(status["cache"]["hits"], 1);
}

/// Writes spans down as they begin and end.
#[derive(Clone, Default)]
struct Subscriber(Arc<Mutex<(Vec<&'static str>, Vec<String>)>>);

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "cuda_green_embed::service"
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut kept = self.0.lock().unwrap();
        let name = span.metadata().name();
        let parent = span.parent().map(|id| kept.0[id.into_u64() as usize - 1]);
        kept.0.push(name);
        kept.1.push(format!(
            "{}{name}",
            parent.map(|name| format!("{name}.")).unwrap_or_default()
        ));
        tracing::span::Id::from_u64(kept.0.len() as u64)
    }
    fn try_close(&self, id: tracing::span::Id) -> bool {
        let mut kept = self.0.lock().unwrap();
        let name = kept.0[id.into_u64() as usize - 1];
        kept.1.push(format!("end of {name}"));
        true
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_spans_are_the_stages_of_a_request() {
    let _alone = alone();
    let subscriber = Subscriber::default();
    let embedder = service();
    tracing::subscriber::with_default(subscriber.clone(), || {
        embedder.embed("1").wait().unwrap();
    });
    drop(embedder);
    let heard = subscriber.0.lock().unwrap().1.clone();
    let stages = ["tokenize", "queue", "gpu", "deliver"];
    let mut expected = vec!["embed".to_owned(), "embed.tokenize".to_owned()];
    for pair in stages.windows(2) {
        expected.push(format!("embed.{}", pair[1]));
        expected.push(format!("end of {}", pair[0]));
    }
    expected.push("end of deliver".to_owned());
    expected.push("end of embed".to_owned());
    assert_eq!(heard, expected);
}

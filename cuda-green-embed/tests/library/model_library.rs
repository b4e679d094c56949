//! Several models in one memory budget, on the simulated driver.

mod errors;
mod model;
mod threads;

use std::sync::Arc;

use cuda_green::{Driver, SmPartitionManager, sim::Sim};
use cuda_green_embed::{
    CpuEncoder, Embedder, EmbedderBuilder, Encoder, EncoderOptions, InferencePrecision, Lane,
    LibraryBuilder, ModelFolder, ModelLibrary, ModelSpec, model::BertConfig,
};
use proptest::prelude::*;

use crate::support::SmallModel;

pub const MODELS: usize = 13;

/// Returns a model that the GPU's encoder can run.
fn config() -> BertConfig {
    let mut config = BertConfig::of(32, 1, 1);
    config.intermediate_size = 64;
    config.vocabulary = 16;
    config.positions = 16;
    config
}

fn options() -> EmbedderBuilder {
    let sizes = EncoderOptions::default().max_tokens(16).max_texts(4);
    Embedder::builder()
        .precision(InferencePrecision::FP32)
        .encoder(Lane::Interactive, sizes)
        .encoder(Lane::Bulk, sizes)
}

/// Models that differ, with what each makes of a text.
pub struct Models {
    folders: Vec<SmallModel>,
    references: Vec<CpuEncoder>,
    sim: Sim,
}

impl Models {
    pub fn new(count: usize) -> Self {
        let folders = (0..count).map(|seed| SmallModel::seeded(config(), seed as u64));
        let folders: Vec<_> = folders.collect();
        let reference = |model: &SmallModel| {
            CpuEncoder::open(&ModelFolder::open(model.path()).unwrap()).unwrap()
        };
        Self {
            references: folders.iter().map(reference).collect(),
            folders,
            sim: Sim::new("h200@13.0").unwrap(),
        }
    }

    pub fn manager(&self) -> Arc<SmPartitionManager> {
        let device = Driver::simulated(&self.sim).unwrap().device(0).unwrap();
        Arc::new(SmPartitionManager::on(&device).unwrap())
    }

    pub fn builder(&self) -> LibraryBuilder {
        let mut builder = ModelLibrary::builder(self.manager());
        for (index, folder) in self.folders.iter().enumerate() {
            let spec = ModelSpec::new(name(index), folder.path());
            builder = builder.model(spec.options(options()));
        }
        builder
    }

    /// Returns a library with room for so many of the models.
    pub fn library(&self, room: usize) -> ModelLibrary {
        let bytes = self.bytes();
        // One byte less, and the last of them had no room.
        let library = self.builder().budget(room as u64 * bytes);
        library.build().unwrap()
    }

    /// Returns the bytes of each of them.
    pub fn bytes(&self) -> u64 {
        let folder = ModelFolder::open(self.folders[0].path()).unwrap();
        options()
            .device_bytes(&folder, self.manager().device())
            .unwrap()
    }

    /// Checks that a vector is a model's of a text.
    pub fn assert_is(&self, model: usize, text: &str, vector: &[f32]) {
        let folder = ModelFolder::open(self.folders[model].path()).unwrap();
        let tokens = folder.tokenizer().unwrap().encode(text).unwrap();
        let batch = [tokens].into_iter().collect();
        let expected = self.references[model].encode(&batch).unwrap();
        let dot: f32 = expected
            .values()
            .iter()
            .zip(vector)
            .map(|(a, b)| a * b)
            .sum();
        assert!(dot > 0.9999, "model {model}, `{text}`: {dot}");
    }
}

pub fn name(model: usize) -> String {
    format!("model-{model}")
}

#[test]
fn models_differ() {
    let models = Models::new(2);
    let library = models.library(2);
    let vector = |model: usize| {
        let handle = library.get(Some(&name(model))).unwrap();
        handle.embed("a b").wait().unwrap()
    };
    let (first, second) = (vector(0), vector(1));
    models.assert_is(0, "a b", &first);
    models.assert_is(1, "a b", &second);
    let dot: f32 = first.iter().zip(&second).map(|(a, b)| a * b).sum();
    assert!(dot < 0.99, "the tests could not tell them apart: {dot}");
}

#[test]
fn a_handle_and_a_future_outlive_the_library() {
    let models = Models::new(2);
    let library = models.library(1);
    let handle = library.get(None).unwrap();
    assert_eq!(
        (handle.name(), library.default_model()),
        ("model-0", "model-0")
    );
    let future = handle.clone().embed("a");
    drop(library);
    models.assert_is(0, "b", &handle.embed("b").wait().unwrap());
    drop(handle);
    models.assert_is(0, "a", &future.wait().unwrap());
    models.sim.assert_no_leaks();
}

#[test]
fn without_green_contexts_models_share_one_context() {
    let mut models = Models::new(2);
    models.sim = Sim::new("h200@12.2").unwrap();
    let library = models.library(1);
    for model in [0, 1, 0] {
        let handle = library.get(Some(&name(model))).unwrap();
        models.assert_is(model, "a b", &handle.embed("a b").wait().unwrap());
    }
    assert_eq!(library.status().evictions, 2);
}

#[test]
fn the_default_is_the_first_or_the_one_that_was_named() {
    let models = Models::new(3);
    let library = models.library(1);
    assert_eq!(library.get(None).unwrap().name(), "model-0");
    drop(library); // it has the device
    let library = models.builder().default_model("model-2").build().unwrap();
    assert_eq!(library.get(None).unwrap().name(), "model-2");
    assert_eq!(
        library.names().collect::<Vec<_>>(),
        ["model-0", "model-1", "model-2"]
    );
    let status = library.status().to_string();
    let lines: Vec<_> = status.lines().collect();
    assert!(lines[0].starts_with(&format!(
        "{} of 8589934592 bytes; loads: 1 at ",
        models.bytes()
    )));
    assert!(lines[0].ends_with("; 0 hits, 0 evictions, 0 failures"));
    let bytes = models.bytes();
    assert_eq!(
        lines[3],
        format!("model-2  loaded    {bytes} bytes, 0 users, 0 pins, default")
    );
}

#[test]
fn by_default_thirteen_small_models_fit_into_eight_gib() {
    // The sizes of MiniLM, without its weights.
    let mut model = SmallModel::new();
    model.config = BertConfig::mini_lm();
    model.write("config.json", &model.config_json());
    model.write(
        "sentence_bert_config.json",
        &serde_json::json!({"max_seq_length": 256}),
    );
    model.remove("1_Pooling/config.json");
    model.remove("modules.json");
    let device = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let folder = ModelFolder::open(model.path()).unwrap();
    let bytes = Embedder::builder().device_bytes(&folder, &device.device(0).unwrap());
    let bytes = bytes.unwrap();
    assert!(bytes * 13 < 8 << 30, "{bytes}");
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(32))]

    /// What a model is said to take is what its pool is asked for.
    #[test]
    fn a_model_takes_exactly_what_it_is_said_to(
        layers in 1usize..4,
        heads in 1usize..3,
        wide in any::<bool>(),
        intermediate in 1usize..10,
        vocabulary in 16usize..40,
        (positions, types) in (10usize..40, 1usize..3),
        tokens in (40u32..300, 40u32..300),
        precision in 0usize..3,
    ) {
        let mut config = BertConfig::of(heads * if wide { 64 } else { 32 }, layers, heads);
        config.intermediate_size = 8 * intermediate;
        config.vocabulary = vocabulary;
        config.positions = positions;
        config.token_types = types;
        let model = SmallModel::of(config);
        let sim = Sim::new("h200@13.0").unwrap();
        let device = Driver::simulated(&sim).unwrap().device(0).unwrap();
        let manager = Arc::new(SmPartitionManager::on(&device).unwrap());
        let precision = InferencePrecision::ALL[precision];
        let options = Embedder::builder()
            .precision(precision)
            .encoder(Lane::Interactive, EncoderOptions::default().max_tokens(tokens.0))
            .encoder(Lane::Bulk, EncoderOptions::default().max_tokens(tokens.1));
        let bytes = options.device_bytes(&ModelFolder::open(model.path()).unwrap(), &device).unwrap();
        let library = ModelLibrary::builder(manager)
            .budget(bytes)
            .model(ModelSpec::new("it", model.path()).options(options))
            .build()
            .unwrap();
        let _loaded = library.get(None).unwrap();
        let report = library.memory_report();
        let [pool, slot] = &report.rows[..] else { panic!("{report}") };
        prop_assert_eq!((slot.memory.used, slot.memory.high_water_mark), (bytes, bytes));
        prop_assert_eq!(pool.memory.used, bytes);
    }
}

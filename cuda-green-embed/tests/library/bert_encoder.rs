//! The GPU's encoder on the simulated driver, with the kernels' host bodies, against the reference.

use std::sync::Arc;

use cuda_green::{
    CaptureMode, ContextId, Driver, GpuMemoryPool, RebalanceHint, SmPartitionManager,
    sim::{Injection, Sim},
    sys::CUresult,
};
use cuda_green_embed::{
    BertEncoder, BertModel, CpuEncoder, CublasLt, Embeddings, Encoder, EncoderOptions, Error,
    InferencePrecision, ModelFolder, ModelHead, PackedBatch, Pooling, Result,
    model::{BertConfig, BertWeights, Tensor},
};
use proptest::{prelude::*, test_runner::Config};

use crate::support::mini_lm;

/// Sizes that both ways of a pass can run.
fn config() -> BertConfig {
    let mut config = BertConfig::of(128, 2, 4);
    config.intermediate_size = 384;
    config.vocabulary = 300;
    config.positions = 100;
    config
}

const HEAD: ModelHead = ModelHead {
    pooling: Pooling::Mean,
    normalize: true,
    max_length: 100,
};

/// A model in a partition of a simulated device.
struct Gpu {
    encoder: BertEncoder,
    manager: SmPartitionManager,
}

impl Gpu {
    fn with(simulator: &Sim, model: &Model, precision: InferencePrecision) -> Result<Self> {
        let device = Driver::simulated(simulator)?.device(0)?;
        let manager = SmPartitionManager::on(&device)?;
        manager.init_quad_partition()?;
        let pool = GpuMemoryPool::on(&device, 1 << 30)?;
        BertModel::ensure_supported(&model.config, &device)?;
        let cublaslt = CublasLt::software(&device)?;
        let model = BertModel::from_weights(
            &model.config,
            &model.weights,
            model.head,
            &pool,
            precision,
            cublaslt,
        )?;
        let stream = manager.create_stream(ContextId::Embedding)?;
        let options = EncoderOptions::default().max_tokens(200).max_texts(40);
        Ok(Self {
            encoder: BertEncoder::new(&model, stream, options)?,
            manager,
        })
    }

    fn new(model: &Model, precision: InferencePrecision) -> Self {
        let simulator = Sim::new("h200@13.0").unwrap();
        Self::with(&simulator, model, precision).unwrap()
    }
}

struct Model {
    config: BertConfig,
    weights: BertWeights,
    head: ModelHead,
}

impl Model {
    fn new(config: BertConfig, head: ModelHead) -> Self {
        Self {
            weights: BertWeights::random(&config, 3),
            config,
            head,
        }
    }

    fn reference(&self) -> CpuEncoder {
        let head = self.head;
        CpuEncoder::new(&self.config, &self.weights, head.pooling, head.normalize)
    }
}

/// The least cosine between the vectors of two encoders.
fn agreement(a: &Embeddings, b: &Embeddings) -> f64 {
    assert_eq!((a.len(), a.dimension()), (b.len(), b.dimension()));
    let cosine = |(a, b): (&[f32], &[f32])| {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    a.iter().zip(b.iter()).map(cosine).fold(1.0, f64::min)
}

fn least(precision: InferencePrecision) -> f64 {
    match precision {
        InferencePrecision::FP32 => 0.999_999,
        InferencePrecision::FP16 => 0.9999,
        _ => 0.999,
    }
}

const PRECISIONS: [InferencePrecision; 3] = [
    InferencePrecision::FP32,
    InferencePrecision::FP16,
    InferencePrecision::BF16,
];

/// A batch of texts of these lengths, with ids that differ.
fn batch(lengths: &[usize]) -> PackedBatch {
    let mut next = 0_u32;
    let texts = lengths.iter().map(|length| {
        let ids: Vec<u32> = (0..*length)
            .map(|_| {
                next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                next % 300
            })
            .collect();
        ids
    });
    texts.collect()
}

#[test]
fn vectors_are_those_of_the_reference() {
    let mut wide = BertConfig::of(192, 2, 3);
    wide.intermediate_size = 384;
    wide.vocabulary = 300;
    wide.positions = 100;
    // No product for few tokens has these widths.
    let mut odd = BertConfig::of(96, 1, 3);
    odd.intermediate_size = 200;
    odd.vocabulary = 300;
    odd.positions = 100;
    let first = ModelHead {
        pooling: Pooling::Cls,
        normalize: false,
        ..HEAD
    };
    for (config, head) in [(config(), HEAD), (wide, first), (odd, HEAD)] {
        let model = Model::new(config, head);
        let reference = model.reference();
        for precision in PRECISIONS {
            let gpu = Gpu::new(&model, precision);
            for lengths in [
                vec![1],
                vec![14],
                vec![3, 9, 1, 20],
                vec![64],
                vec![65],
                vec![30, 1, 100, 7, 61],
                vec![5; 40],
            ] {
                let batch = batch(&lengths);
                let agreed = agreement(
                    &gpu.encoder.encode(&batch).unwrap(),
                    &reference.encode(&batch).unwrap(),
                );
                assert!(
                    agreed >= least(precision),
                    "{precision} {lengths:?}: {agreed}"
                );
            }
        }
    }
}

#[test]
fn the_real_model_gives_the_reference_s_vectors() {
    let Some(path) = mini_lm() else { return };
    let folder = ModelFolder::open(path).unwrap();
    let tokenizer = folder.tokenizer().unwrap();
    let reference = CpuEncoder::open(&folder).unwrap();
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = SmPartitionManager::on(&device).unwrap();
    manager.init_quad_partition().unwrap();
    let pool = GpuMemoryPool::on(&device, 1 << 30).unwrap();
    let model = BertModel::load(&folder, &pool, InferencePrecision::FP16).unwrap();
    let stream = manager.create_stream(ContextId::Embedding).unwrap();
    let options = EncoderOptions::default().max_tokens(256);
    let encoder = BertEncoder::new(&model, stream, options).unwrap();
    for texts in [
        vec!["A man is eating food."],
        vec!["", "The quick brown fox jumps over the lazy dog", "a"],
        vec!["one two three four five six seven eight nine ten"; 7],
    ] {
        let batch = tokenizer.encode_batch(&texts, 1).unwrap();
        let agreed = agreement(
            &encoder.encode(&batch).unwrap(),
            &reference.encode(&batch).unwrap(),
        );
        assert!(agreed >= 0.9999, "{texts:?}: {agreed}");
    }
}

#[test]
fn batches_on_their_way_keep_their_vectors() {
    let model = Model::new(config(), HEAD);
    let gpu = Gpu::new(&model, InferencePrecision::FP16);
    let batches: Vec<_> = (1..=9).map(|i| batch(&[i, 2 * i, 5])).collect();
    let alone: Vec<_> = batches
        .iter()
        .map(|batch| gpu.encoder.encode(batch).unwrap())
        .collect();
    // More than there is room for, read last to first, some never.
    let pending: Vec<_> = batches
        .iter()
        .map(|batch| gpu.encoder.submit(batch).unwrap())
        .collect();
    for (index, pending) in pending.into_iter().enumerate().rev() {
        if index % 4 != 1 {
            assert_eq!(pending.wait().unwrap(), alone[index], "{index}");
        }
    }
    let encoder = Arc::new(gpu.encoder);
    std::thread::scope(|scope| {
        for (batch, alone) in batches.iter().zip(&alone) {
            let encoder = Arc::clone(&encoder);
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(&encoder.encode(batch).unwrap(), alone);
                }
            });
        }
    });
    // The vectors outlive the encoder's handle.
    let pending = encoder.submit(&batches[0]).unwrap();
    drop(encoder);
    assert_eq!(pending.wait().unwrap(), alone[0]);
    assert!(gpu.manager.get_context(ContextId::Embedding).is_ok());
}

#[test]
fn a_rebalance_changes_the_sms_and_not_the_vectors() {
    let model = Model::new(config(), HEAD);
    let gpu = Gpu::new(&model, InferencePrecision::FP16);
    let batch = batch(&[14, 3]);
    let before = gpu.encoder.encode(&batch).unwrap();
    let sms = |gpu: &Gpu| {
        gpu.manager
            .get_context(ContextId::Embedding)
            .unwrap()
            .sm_count()
    };
    let first = sms(&gpu);
    let pending = gpu.encoder.submit(&batch).unwrap();
    gpu.manager
        .rebalance(RebalanceHint::EmbeddingHeavy)
        .unwrap();
    assert!(sms(&gpu) > first);
    assert_eq!(pending.wait().unwrap(), before);
    assert!(agreement(&gpu.encoder.encode(&batch).unwrap(), &before) > 0.999_99);
    gpu.encoder.prepare().unwrap();
    gpu.manager.rebalance(RebalanceHint::Balanced).unwrap();
    assert_eq!(gpu.encoder.encode(&batch).unwrap(), before);
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = Model::new(config(), HEAD);
    let gpu = Gpu::new(&model, InferencePrecision::FP16);
    let refused = |batch: &PackedBatch| gpu.encoder.encode(batch).unwrap_err();
    let limits = gpu.encoder.limits();
    assert_eq!(
        (limits.tokens, limits.texts, limits.dimension),
        (200, 40, 128)
    );
    assert!(matches!(
        refused(&batch(&[100, 100, 1])),
        Error::BatchTooLarge {
            unit: "tokens",
            asked: 201,
            limit: 200
        }
    ));
    assert!(matches!(
        refused(&batch(&[1; 41])),
        Error::BatchTooLarge { unit: "texts", .. }
    ));
    assert!(matches!(
        refused(&batch(&[101])),
        Error::BatchTooLarge {
            unit: "tokens in one text",
            ..
        }
    ));
    assert!(matches!(
        refused(&batch(&[2, 0])),
        Error::EmptyText { text: 1 }
    ));
    let unknown: PackedBatch = [vec![1, 2], vec![3, 300]].iter().collect();
    assert!(matches!(
        refused(&unknown),
        Error::UnknownToken {
            text: 1,
            token: 300,
            vocabulary: 300
        }
    ));
    assert!(gpu.encoder.encode(&PackedBatch::new()).unwrap().is_empty());
    // And nothing was lost by that.
    assert_eq!(gpu.encoder.encode(&batch(&[3])).unwrap().len(), 1);
}

#[test]
fn models_and_devices_that_the_kernels_cannot_run_are_refused() {
    let load = |profile: &str, config: BertConfig| {
        let simulator = Sim::new(profile).unwrap();
        Gpu::with(
            &simulator,
            &Model::new(config, HEAD),
            InferencePrecision::FP16,
        )
        .map(drop)
    };
    let mut narrow = config();
    narrow.heads = 8;
    assert!(matches!(
        load("h200@13.0", narrow),
        Err(Error::UnsupportedSizes { .. })
    ));
    let refused = load("t4@12.8", config()).unwrap_err();
    assert!(
        matches!(refused, Error::Device { found: (7, 5), .. }),
        "{refused}"
    );
    // Without the launches of compute capability 9.0, and in one context where there are no green ones.
    for profile in ["a100@12.4", "rtx4090@12.8", "rtx5090@13.4", "h100@12.2"] {
        load(profile, config()).unwrap();
    }
    let model = Model::new(config(), HEAD);
    let simulator = Sim::new("h200@13.0").unwrap();
    let refused = Gpu::with(&simulator, &model, InferencePrecision::INT8).map(drop);
    assert!(matches!(refused, Err(Error::UnsupportedPrecision { .. })));
}

#[test]
fn values_beyond_the_range_of_f16_are_told() {
    let mut model = Model::new(config(), HEAD);
    // A scale that f16 holds, and products with it that it does not.
    let norm = &mut model.weights.layers[0].attention_norm.weight;
    *norm = Tensor::owned("large".to_owned(), vec![128], &[60_000.0; 128]);
    let reference = model.reference();
    let texts = batch(&[3, 4]);
    let gpu = Gpu::new(&model, InferencePrecision::FP16);
    assert!(matches!(
        gpu.encoder.encode(&texts),
        Err(Error::Overflow {
            precision: "f16",
            ..
        })
    ));
    let gpu = Gpu::new(&model, InferencePrecision::BF16);
    let agreed = agreement(
        &gpu.encoder.encode(&texts).unwrap(),
        &reference.encode(&texts).unwrap(),
    );
    assert!(agreed > 0.99, "{agreed}");
}

/// Makes an encoder, and encodes with it.
fn use_it_all(simulator: &Sim, model: &Model, texts: &PackedBatch) -> Result<Embeddings> {
    let gpu = Gpu::with(simulator, model, InferencePrecision::FP16)?;
    let first = gpu.encoder.submit(texts)?;
    let second = gpu.encoder.submit(texts)?;
    let vectors = second.wait()?;
    assert_eq!(first.wait()?, vectors);
    Ok(vectors)
}

#[test]
fn every_call_may_fail() {
    let mut small = config();
    small.layers = 1;
    let model = Model::new(small, HEAD);
    let texts = batch(&[4, 9]);
    let simulator = Sim::new("h200@13.0").unwrap();
    simulator.start_trace();
    let vectors = use_it_all(&simulator, &model, &texts).unwrap();
    let calls = simulator.take_trace().len() as u64;
    simulator.assert_no_leaks();
    // Every call by itself would take minutes; steps that share no factor with the calls of a graph do not.
    for nth in (1..=calls).step_by(37) {
        for code in [
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        ] {
            let simulator = Sim::new("h200@13.0").unwrap();
            simulator.inject(Injection::fail("*", code).unwrap().at(nth));
            match use_it_all(&simulator, &model, &texts) {
                Ok(found) => assert_eq!(found, vectors),
                Err(Error::Gpu(_) | Error::CublasLt { .. }) => {}
                Err(other) => panic!("call {nth}: {other}"),
            }
        }
    }
}

#[test]
fn a_capture_does_not_lose_the_batch_that_is_waited_for() {
    let model = Model::new(config(), HEAD);
    let gpu = Gpu::new(&model, InferencePrecision::FP16);
    let texts = batch(&[4, 9]);
    let alone = gpu.encoder.encode(&texts).unwrap();
    let training = gpu.manager.get_context(ContextId::Training).unwrap();
    let stream = training.create_stream().unwrap();
    let pending = gpu.encoder.submit(&texts).unwrap();
    let mut vectors = None;
    // It forbids all threads to wait for events, and is spoilt by that.
    let _ = stream.capture(CaptureMode::Global, |_| {
        vectors = Some(pending.wait());
        Ok(())
    });
    assert_eq!(vectors.unwrap().unwrap(), alone);
    assert_eq!(gpu.encoder.encode(&texts).unwrap(), alone);
}

#[test]
fn weights_of_other_sizes_than_the_configuration_says_are_refused() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let load = |change: fn(&mut BertConfig)| {
        let mut model = Model::new(config(), HEAD);
        change(&mut model.config);
        Gpu::with(&simulator, &model, InferencePrecision::FP16).map(drop)
    };
    load(|_| ()).unwrap();
    // Each would have the kernels read past the end of a tensor.
    for change in [
        (|config| config.vocabulary += 1) as fn(&mut BertConfig),
        |config| config.positions += 1,
        |config| config.hidden_size += 128,
        |config| config.intermediate_size += 8,
        |config| config.token_types -= 1,
    ] {
        let refused = load(change).unwrap_err();
        assert!(matches!(refused, Error::WeightShape { .. }), "{refused}");
    }
    assert!(matches!(
        load(|config| config.layers -= 1),
        Err(Error::InvalidConfig {
            found: 2,
            field: "number of layers in the weights",
            ..
        })
    ));
    for heads in [0, 3] {
        let mut model = Model::new(config(), HEAD);
        model.config.heads = heads;
        let refused = Gpu::with(&simulator, &model, InferencePrecision::FP16).map(drop);
        assert!(matches!(refused, Err(Error::UnsupportedSizes { .. })));
    }
    // 129 / 4 is 32, and a value is left.
    let uneven = BertConfig::of(129, 1, 4);
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    assert!(BertModel::ensure_supported(&uneven, &device).is_err());
    let mut none = BertConfig::of(64, 1, 1);
    none.heads = 0;
    assert!(BertModel::ensure_supported(&none, &device).is_err());
    let mut none = config();
    none.layers = 0;
    assert!(BertModel::ensure_supported(&none, &device).is_err());
}

#[test]
fn objects_of_another_device_are_refused() {
    let simulator = Sim::new("2xh200@13.0").unwrap();
    let driver = Driver::simulated(&simulator).unwrap();
    let [first, second] = [0, 1].map(|ordinal| driver.device(ordinal).unwrap());
    let pool = GpuMemoryPool::on(&first, 1 << 30).unwrap();
    let model = Model::new(config(), HEAD);
    let load = |cublaslt| {
        let (config, weights) = (&model.config, &model.weights);
        let precision = InferencePrecision::FP16;
        BertModel::from_weights(config, weights, HEAD, &pool, precision, cublaslt)
    };
    let is_foreign = |refused: &Error| {
        matches!(
            refused,
            Error::Gpu(cuda_green::Error::ForeignDevice {
                device: 1,
                expected: 0,
                ..
            })
        )
    };
    let refused = load(CublasLt::software(&second).unwrap()).unwrap_err();
    assert!(is_foreign(&refused), "{refused}");
    let loaded = load(CublasLt::software(&first).unwrap()).unwrap();
    let manager = SmPartitionManager::on(&second).unwrap();
    manager.init_quad_partition().unwrap();
    let stream = manager.create_stream(ContextId::Embedding).unwrap();
    let options = EncoderOptions::default().max_tokens(200);
    let refused = BertEncoder::new(&loaded, stream, options).unwrap_err();
    assert!(
        matches!(refused, Error::Gpu(cuda_green::Error::ForeignDevice { .. })),
        "{refused}"
    );
    let other = Sim::new("h200@13.0").unwrap();
    let other = Driver::simulated(&other).unwrap().device(0).unwrap();
    let refused = load(CublasLt::software(&other).unwrap()).unwrap_err();
    assert!(
        matches!(refused, Error::Gpu(cuda_green::Error::ForeignDriver)),
        "{refused}"
    );
}

/// Makes these calls fail, all of them, from now on.
fn refuse(simulator: &Sim, calls: &[&str]) {
    for call in calls {
        let code = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        simulator.inject(Injection::fail(call, code).unwrap());
    }
}

fn launches(simulator: &Sim) -> usize {
    let trace = simulator.take_trace();
    let launches = trace
        .iter()
        .filter(|call| call.entry_point.starts_with("cuGraphLaunch"));
    launches.count()
}

#[test]
fn a_slot_is_not_used_again_while_its_batch_may_run() {
    let model = Model::new(config(), HEAD);
    let simulator = Sim::new("h200@13.0").unwrap();
    let gpu = Gpu::with(&simulator, &model, InferencePrecision::FP16).unwrap();
    let texts = batch(&[4, 9]);
    let alone = gpu.encoder.encode(&texts).unwrap();
    for calls in [
        // The batch runs, and cannot be waited for.
        &["cuEventSynchronize", "cuStreamSynchronize"][..],
        // Nor can its end be marked.
        &["cuEventRecord", "cuEventSynchronize", "cuStreamSynchronize"],
    ] {
        simulator.start_trace();
        refuse(&simulator, calls);
        for _ in 0..5 {
            let refused = gpu.encoder.encode(&texts).unwrap_err();
            assert!(matches!(refused, Error::Gpu(_)), "{refused}");
        }
        assert!(gpu.encoder.prepare().is_err());
        assert_eq!(launches(&simulator), 3, "{calls:?}");
        simulator.clear_injections();
        assert_eq!(gpu.encoder.encode(&texts).unwrap(), alone);
        let pending: Vec<_> = (0..5)
            .map(|_| gpu.encoder.submit(&texts).unwrap())
            .collect();
        for pending in pending {
            assert_eq!(pending.wait().unwrap(), alone);
        }
    }
}

#[test]
fn memory_of_a_pass_that_may_run_is_not_freed() {
    let model = Model::new(config(), HEAD);
    let simulator = Sim::new("h200@13.0").unwrap();
    let gpu = Gpu::with(&simulator, &model, InferencePrecision::FP16).unwrap();
    let loaded = gpu.encoder.model().clone();
    let stream = gpu.manager.create_stream(ContextId::Embedding).unwrap();
    let used = loaded.pool().used();
    let options = EncoderOptions::default().max_tokens(200).max_texts(40);
    // Its launches succeed, and the wait for them does not.
    refuse(&simulator, &["cuEventRecord"]);
    simulator.start_trace();
    let refused = BertEncoder::new(&loaded, stream, options).unwrap_err();
    assert!(matches!(refused, Error::Gpu(_)), "{refused}");
    let trace = simulator.take_trace();
    assert!(
        trace
            .iter()
            .any(|call| call.entry_point.starts_with("cuLaunchKernel"))
    );
    assert!(loaded.pool().used() > used);
}

proptest! {
    #![proptest_config(Config { cases: Config::default().cases.min(32), ..Config::default() })]

    #[test]
    fn a_text_has_one_vector_in_any_batch(lengths in prop::collection::vec(1_usize..60, 1..12), cut in 0_usize..12) {
        prop_assume!(lengths.iter().sum::<usize>() <= 200);
        let model = Model::new(config(), HEAD);
        let gpu = Gpu::new(&model, InferencePrecision::FP16);
        let whole = batch(&lengths);
        let together = gpu.encoder.encode(&whole).unwrap();
        let reference = model.reference().encode(&whole).unwrap();
        prop_assert!(agreement(&together, &reference) > 0.9999);
        let texts: Vec<_> = (0..whole.texts()).filter_map(|text| whole.text(text)).collect();
        let (left, right) = texts.split_at(cut.min(texts.len()));
        let mut parts = Vec::new();
        for part in [left, right] {
            let vectors = gpu.encoder.encode(&part.iter().collect()).unwrap();
            parts.extend(vectors.into_values());
        }
        let parts = Embeddings::new(128, parts);
        prop_assert!(agreement(&together, &parts) > 0.9999);
    }
}

#[test]
fn a_context_is_not_destroyed_under_its_encoder() {
    let model = Model::new(config(), HEAD);
    let Gpu { encoder, manager } = Gpu::new(&model, InferencePrecision::FP16);
    let texts = batch(&[4, 9]);
    let alone = encoder.encode(&texts).unwrap();
    assert!(manager.destroy_context(ContextId::Embedding).is_err());
    assert_eq!(encoder.encode(&texts).unwrap(), alone);
    let pending = encoder.submit(&texts).unwrap();
    drop(encoder);
    drop(manager);
    assert_eq!(pending.wait().unwrap(), alone);
}

#[test]
fn threads_that_submit_prepare_and_rebalance_lose_nothing() {
    let model = Model::new(config(), HEAD);
    let gpu = Gpu::new(&model, InferencePrecision::FP16);
    let texts = batch(&[4, 9]);
    let alone = gpu.encoder.encode(&texts).unwrap();
    let submit = || {
        for _ in 0..40 {
            // More than there are slots.
            let pending: Vec<_> = (0..4)
                .map(|_| gpu.encoder.submit(&texts).unwrap())
                .collect();
            for pending in pending.into_iter().rev() {
                assert!(agreement(&pending.wait().unwrap(), &alone) > 0.9999);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(submit);
        }
        scope.spawn(|| (0..5).for_each(|_| gpu.encoder.prepare().unwrap()));
        for hint in [RebalanceHint::EmbeddingHeavy, RebalanceHint::Balanced].repeat(10) {
            gpu.manager.rebalance(hint).unwrap();
        }
    });
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let mut model = Model::new(config(), HEAD);
    let shift = &mut model.weights.layers[1].output_norm.bias;
    *shift = Tensor::owned("the shift".to_owned(), vec![128], &[f32::NAN; 128]);
    let simulator = Sim::new("h200@13.0").unwrap();
    let refused = Gpu::with(&simulator, &model, InferencePrecision::FP16).map(drop);
    assert!(matches!(refused, Err(Error::Weight { tensor, .. }) if tensor == "the shift"));
}

//! The embeddings' encoder in a partition: its vectors are those of the reference, on every driver that can run it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use cuda_green::{
    ContextId, ContextProbe, CudaDevice, Driver, GpuMemoryPool, RebalanceHint, Result,
    SmPartitionManager,
};
use cuda_green_embed::{
    BertEncoder, BertModel, CpuEncoder, CublasLt, Embeddings, Encoder, EncoderOptions, Error,
    InferencePrecision, ModelHead, PackedBatch, Pooling,
    model::{BertConfig, BertWeights},
};

use crate::{
    Case,
    support::{is_partitioned, needs, quad, since, times},
};

pub const CASES: &[Case] = &[
    ("embed/vectors_are_those_of_the_reference", small_model),
    ("embed/true_shapes_with_random_weights", true_shapes),
    ("embed/partitions_share_a_model", shared_model),
    ("embed/a_rebalance_moves_the_encoder", rebalanced),
    ("embed/work_stays_in_its_partition", contained),
];

const HEAD: ModelHead = ModelHead {
    pooling: Pooling::Mean,
    normalize: true,
    max_length: 128,
};

/// Sizes of which both ways of a pass can be tried within a moment.
fn small() -> BertConfig {
    let mut config = BertConfig::of(128, 2, 4);
    config.intermediate_size = 384;
    config.vocabulary = 300;
    config.positions = 128;
    config
}

/// Returns the model on the device; `None` where the kernels cannot run, which the error must say.
fn load(
    device: &CudaDevice,
    config: &BertConfig,
    weights: &BertWeights,
    precision: InferencePrecision,
) -> Option<BertModel> {
    if device.properties().compute_capability < (8, 0) {
        let refused = BertModel::ensure_supported(config, device);
        assert!(matches!(refused, Err(Error::Device { .. })));
        return None;
    }
    let pool = GpuMemoryPool::on(device, 4 << 30).unwrap();
    let cublaslt = CublasLt::load(device).unwrap();
    Some(BertModel::from_weights(config, weights, HEAD, &pool, precision, cublaslt).unwrap())
}

fn encoder(
    model: &BertModel,
    manager: &SmPartitionManager,
    id: ContextId,
    tokens: u32,
) -> BertEncoder {
    let stream = manager.create_stream(id).unwrap();
    let options = EncoderOptions::default().max_tokens(tokens);
    BertEncoder::new(model, stream, options).unwrap()
}

/// Texts of these lengths.
fn batch(config: &BertConfig, lengths: &[usize]) -> PackedBatch {
    let mut next = 1_u32;
    let texts = lengths.iter().map(|length| {
        let ids = (0..*length).map(|_| {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            next % config.vocabulary as u32
        });
        ids.collect::<Vec<u32>>()
    });
    texts.collect()
}

/// The least cosine between the vectors of two encoders.
fn agreement(a: &Embeddings, b: &Embeddings) -> f64 {
    assert_eq!((a.len(), a.dimension()), (b.len(), b.dimension()));
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let cosines = a
        .iter()
        .zip(b.iter())
        .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    cosines.fold(1.0, f64::min)
}

const PRECISIONS: [(InferencePrecision, f64); 3] = [
    (InferencePrecision::FP32, 0.999_999),
    (InferencePrecision::FP16, 0.9999),
    (InferencePrecision::BF16, 0.999),
];

fn small_model(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let config = small();
    let weights = BertWeights::random(&config, 5);
    let reference = CpuEncoder::new(&config, &weights, HEAD.pooling, HEAD.normalize);
    for (precision, least) in PRECISIONS {
        let Some(model) = load(&device, &config, &weights, precision) else {
            return Ok(());
        };
        let encoder = encoder(&model, &manager, ContextId::Embedding, 256);
        for lengths in [
            &[1][..],
            &[14],
            &[3, 9, 1, 20, 4],
            &[64],
            &[65],
            &[128, 1, 100, 7],
            &[4; 64],
        ] {
            let batch = batch(&config, lengths);
            let agreed = agreement(
                &encoder.encode(&batch).unwrap(),
                &reference.encode(&batch).unwrap(),
            );
            assert!(agreed >= least, "{precision} {lengths:?}: {agreed}");
        }
    }
    Ok(())
}

/// The models that people use, by their sizes. A simulated driver gets the smallest only, cut short: it computes on the
/// CPU.
fn true_shapes(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let mut shapes = vec![BertConfig::mini_lm()];
    if driver.is_simulated() {
        shapes[0].layers = 1;
        shapes[0].vocabulary = 1000;
    } else {
        shapes.extend([
            BertConfig::bge_small(),
            BertConfig::bert_base(),
            BertConfig::bert_large(),
        ]);
    }
    for config in shapes {
        let weights = BertWeights::random(&config, 11);
        let reference = CpuEncoder::new(&config, &weights, HEAD.pooling, HEAD.normalize);
        let few = batch(&config, &[14, 5]);
        let many = batch(&config, &[40, 2, 60]);
        for (precision, least) in PRECISIONS {
            let Some(model) = load(&device, &config, &weights, precision) else {
                return Ok(());
            };
            let encoder = encoder(&model, &manager, ContextId::Embedding, 128);
            for batch in [&few, &many] {
                let agreed = agreement(
                    &encoder.encode(batch).unwrap(),
                    &reference.encode(batch).unwrap(),
                );
                let shape = (config.hidden_size, config.layers);
                assert!(agreed >= least, "{precision} {shape:?}: {agreed}");
            }
        }
    }
    Ok(())
}

fn shared_model(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let config = small();
    let weights = BertWeights::random(&config, 5);
    let Some(model) = load(&device, &config, &weights, InferencePrecision::FP16) else {
        return Ok(());
    };
    let encoders =
        [ContextId::Embedding, ContextId::Dream].map(|id| encoder(&model, &manager, id, 256));
    let batches: Vec<_> = (1..8).map(|n| batch(&config, &[n, 30, 2 * n])).collect();
    let alone: Vec<_> = batches
        .iter()
        .map(|batch| encoders[0].encode(batch).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for encoder in &encoders {
            scope.spawn(|| {
                for _ in 0..times(driver, 2, 50) {
                    let pending: Vec<_> = batches
                        .iter()
                        .map(|batch| encoder.submit(batch).unwrap())
                        .collect();
                    for (pending, alone) in pending.into_iter().zip(&alone) {
                        assert!(agreement(&pending.wait().unwrap(), alone) > 0.9999);
                    }
                }
            });
        }
    });
    Ok(())
}

fn rebalanced(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let config = small();
    let weights = BertWeights::random(&config, 5);
    let Some(model) = load(&device, &config, &weights, InferencePrecision::FP16) else {
        return Ok(());
    };
    if is_partitioned(driver) && !since(driver, 12, 5) {
        needs(manager.rebalance(RebalanceHint::DreamActive), 12, 5);
        return Ok(());
    }
    let encoder = encoder(&model, &manager, ContextId::Embedding, 256);
    let batches = [batch(&config, &[14]), batch(&config, &[90, 60])];
    let before = batches
        .each_ref()
        .map(|batch| encoder.encode(batch).unwrap());
    for hint in [
        RebalanceHint::DreamActive,
        RebalanceHint::EmbeddingHeavy,
        RebalanceHint::Balanced,
    ] {
        let pending = batches
            .each_ref()
            .map(|batch| encoder.submit(batch).unwrap());
        manager.rebalance(hint)?;
        for (pending, before) in pending.into_iter().zip(&before) {
            assert_eq!(&pending.wait().unwrap(), before);
        }
        for (batch, before) in batches.iter().zip(&before) {
            assert!(agreement(&encoder.encode(batch).unwrap(), before) > 0.9999);
        }
        encoder.prepare().unwrap();
    }
    Ok(())
}

/// No kernel of a pass, cuBLASLt's included, runs on an SM of another partition: all of those are free all the time.
fn contained(driver: &Driver) -> Result<()> {
    if !is_partitioned(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    let mut config = BertConfig::mini_lm();
    if driver.is_simulated() {
        config = small();
    }
    let weights = BertWeights::random(&config, 5);
    let Some(model) = load(&device, &config, &weights, InferencePrecision::FP16) else {
        return Ok(());
    };
    let encoder = encoder(&model, &manager, ContextId::Embedding, 256);
    let batches = [batch(&config, &[14]), batch(&config, &[90, 60])];
    // Loads the probe's kernel.
    manager.probe()?;
    let ended = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let worker = {
            let ended = Arc::clone(&ended);
            let (encoder, batches) = (&encoder, &batches);
            scope.spawn(move || {
                let mut rounds = 0;
                while !ended.load(Ordering::Relaxed) && (rounds < 2 || !driver.is_simulated()) {
                    for batch in batches {
                        encoder.encode(batch).unwrap();
                    }
                    rounds += 1;
                }
            })
        };
        let probed: Result<()> = [ContextId::Dream, ContextId::Training, ContextId::Reserved]
            .into_iter()
            .try_for_each(|id| {
                let probe = manager.get_context(id)?.probe()?;
                assert!(
                    matches!(probe, ContextProbe::Undisturbed { .. }),
                    "{id:?}: {probe}"
                );
                Ok(())
            });
        ended.store(true, Ordering::Relaxed);
        worker.join().unwrap();
        probed
    })
}

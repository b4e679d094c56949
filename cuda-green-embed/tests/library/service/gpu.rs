//! The service with the GPU's encoder, on the simulated driver.

use std::sync::Arc;

use cuda_green::{
    Driver, GpuMemoryPool, SmPartitionManager,
    sim::{Injection, Sim},
};
use cuda_green_embed::{
    BertModel, CpuEncoder, CublasLt, Embedder, EmbedderBuilder, Encoder, EncoderOptions, Error,
    InferencePrecision, Lane, ModelFolder, ModelHead, PackedBatch, Pooling, ServiceMode,
    model::{BertConfig, BertWeights},
};

use crate::{service::block_on, support::SmallModel};

pub const HEAD: ModelHead = ModelHead {
    pooling: Pooling::Mean,
    normalize: true,
    max_length: 20,
};

/// Returns a model that the GPU's encoder can run.
pub fn config() -> BertConfig {
    let mut config = BertConfig::of(64, 2, 2);
    config.intermediate_size = 128;
    config.vocabulary = 100;
    config.positions = 20;
    config
}

fn service(simulator: &Sim) -> Result<(Embedder, Arc<SmPartitionManager>, CpuEncoder), Error> {
    let device = Driver::simulated(simulator)?.device(0)?;
    let manager = Arc::new(SmPartitionManager::on(&device)?);
    let (embedder, reference) = service_in(&manager, Embedder::builder())?;
    Ok((embedder, manager, reference))
}

/// Returns a service of a small model in the contexts of a manager, and a reference.
pub fn service_in(
    manager: &Arc<SmPartitionManager>,
    builder: EmbedderBuilder,
) -> Result<(Embedder, CpuEncoder), Error> {
    let device = manager.device();
    let pool = GpuMemoryPool::on(device, 1 << 30)?;
    let (config, weights) = (config(), BertWeights::random(&config(), 3));
    let reference = CpuEncoder::new(&config, &weights, HEAD.pooling, HEAD.normalize);
    let cublaslt = CublasLt::software(device)?;
    let model = BertModel::from_weights(
        &config,
        &weights,
        HEAD,
        &pool,
        InferencePrecision::FP32,
        cublaslt,
    )?;
    let options = EncoderOptions::default().max_tokens(64).max_texts(16);
    let embedder = builder
        .encoder(Lane::Interactive, options)
        .encoder(Lane::Bulk, options)
        .build(&model, Arc::clone(manager))?;
    Ok((embedder, reference))
}

pub fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let dot: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
    assert!(dot > 0.999_99, "{dot}");
}

/// Returns the reference's vector of one text.
pub fn expected(reference: &CpuEncoder, tokens: &[u32]) -> Vec<f32> {
    let batch: PackedBatch = [tokens].into_iter().collect();
    reference.encode(&batch).unwrap().into_values()
}

#[test]
fn queries_and_bulk_work_get_the_reference_s_vectors() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let (embedder, _manager, reference) = service(&simulator).unwrap();
    let list: Vec<Vec<u32>> = (1..60).map(|n| (n..n + 1 + n % 9).collect()).collect();
    let flood = embedder.bulk().embed_token_batch(&list);
    for tokens in [vec![5, 6, 7], vec![99; 20]] {
        let vector = embedder.embed_tokens(tokens.clone()).wait().unwrap();
        assert_close(&vector, &expected(&reference, &tokens));
        let vector = block_on(embedder.embed_tokens(tokens.clone())).unwrap();
        assert_close(&vector, &expected(&reference, &tokens));
    }
    let bad = embedder.embed_tokens(vec![5, 100]).wait();
    assert!(matches!(
        bad,
        Err(Error::UnknownToken {
            token: 100,
            vocabulary: 100,
            ..
        })
    ));
    for (tokens, vector) in list.iter().zip(flood.wait().unwrap()) {
        assert_close(&vector.unwrap(), &expected(&reference, tokens));
    }
    let status = embedder.status();
    assert_eq!(status.mode, ServiceMode::Partitioned);
    assert_eq!(
        (status.interactive.sms, status.bulk.sms),
        (Some(32), Some(32))
    );
    assert_eq!((status.interactive.done, status.bulk.done), (4, 59));
    assert!(
        status
            .to_string()
            .starts_with("partitioned\ninteractive  32 SMs, 0 of 1024 queued")
    );
    embedder.shutdown();
}

#[test]
fn without_green_contexts_it_works_in_one_context_and_says_so() {
    let simulator = Sim::new("h200@12.2").unwrap();
    let (embedder, _manager, reference) = service(&simulator).unwrap();
    let vector = embedder.embed_tokens(vec![1, 2]).wait().unwrap();
    assert_close(&vector, &expected(&reference, &[1, 2]));
    let status = embedder.status();
    let ServiceMode::SingleContext { reason } = &status.mode else {
        panic!("{status}");
    };
    assert!(status.to_string().contains(reason), "{status}");
}

#[test]
fn a_lost_gpu_makes_the_service_dead() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let (embedder, _manager, _) = service(&simulator).unwrap();
    embedder.embed_tokens(vec![1]).wait().unwrap();
    simulator.inject(Injection::lose_device(0));
    let Err(Error::ServiceDead { first }) = embedder.embed_tokens(vec![2]).wait() else {
        panic!("the GPU is lost");
    };
    assert!(matches!(*first, Error::Gpu(_)), "{first}");
    let bulk = embedder.bulk().embed_tokens(vec![3]).wait();
    assert!(matches!(bulk, Err(Error::ServiceDead { .. })));
    assert!(embedder.status().to_string().contains("\ndead: "));
}

#[test]
fn a_model_is_loaded_from_its_folder() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = Arc::new(SmPartitionManager::on(&device).unwrap());
    let mut small = config();
    small.vocabulary = 16;
    let model = SmallModel::of(small);
    let embedder = Embedder::builder().precision(InferencePrecision::FP32);
    let embedder = embedder.load(model.path(), manager).unwrap();
    let folder = ModelFolder::open(model.path()).unwrap();
    let reference = CpuEncoder::open(&folder).unwrap();
    let tokens = folder.tokenizer().unwrap().encode("ab c!").unwrap();
    let vector = embedder.embed("ab c!").wait().unwrap();
    assert_close(&vector, &expected(&reference, &tokens));
    let missing = Embedder::builder().load(
        "nowhere",
        Arc::new(SmPartitionManager::on(&device).unwrap()),
    );
    assert!(matches!(missing, Err(Error::File { .. })));
}

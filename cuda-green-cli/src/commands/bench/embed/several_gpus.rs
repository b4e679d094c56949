//! Several GPUs that take batches from one queue, beside one of them.

use std::{sync::Arc, time::Instant};

use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, GpuMemoryPool, SmPartitionManager,
    planner::PartitionRequest,
};
use cuda_green_embed::{
    BertEncoder, BertModel, CublasLt, Encoder, EncoderOptions, MultiGpuEmbedder,
};

use super::{bulk::sorted, figures::Gpus, setup::Setup};

/// The times that all batches go through: one is over in a tenth of a second.
const ROUNDS: usize = 5;

/// Measures all texts, tokenised before, on one GPU, on two, and so on. Nothing with a single GPU.
pub fn measure(setup: &Setup<'_>) -> anyhow::Result<Vec<Gpus>> {
    let driver = setup.device().driver();
    let gpus = driver.device_count()?;
    let mut rows: Vec<Gpus> = Vec::new();
    if gpus < 2 {
        return Ok(rows);
    }
    let ids = sorted(setup, usize::MAX)?;
    let tokens: usize = ids.iter().map(Vec::len).sum();
    let most = EncoderOptions::default().max_tokens(setup.count(16_384, 512) as u32);
    let batches = setup.batches(ids.iter().map(Vec::as_slice), most);
    let batches = vec![batches; setup.count(ROUNDS, 1)].concat();
    let mut encoders: Vec<Arc<dyn Encoder>> = Vec::new();
    let mut managers = Vec::new();
    for ordinal in 0..gpus {
        let device = driver.device(ordinal)?;
        let (manager, encoder) = place(setup, &device, most)?;
        managers.push(manager);
        encoders.push(Arc::new(encoder));
        let embedder = MultiGpuEmbedder::new(encoders.clone())?;
        embedder.embed_batch(batches.iter().take(8).cloned().collect())?;
        let start = Instant::now();
        embedder.embed_batch(batches.clone())?;
        let seconds = start.elapsed().as_secs_f64();
        let tokens_per_s = (tokens * setup.count(ROUNDS, 1)) as f64 / seconds;
        let one = rows.first().map_or(tokens_per_s, |row| row.tokens_per_s);
        rows.push(Gpus {
            gpus: encoders.len(),
            tokens_per_s,
            to_one: tokens_per_s / one,
        });
    }
    Ok(rows)
}

/// Makes an encoder on all SMs of a device.
fn place(
    setup: &Setup<'_>,
    device: &CudaDevice,
    options: EncoderOptions,
) -> anyhow::Result<(SmPartitionManager, BertEncoder)> {
    let pool = GpuMemoryPool::on(device, device.free_memory()?)?;
    let cublaslt = CublasLt::load(device)?;
    let model = BertModel::with_cublaslt(&setup.folder, &pool, setup.precision, cublaslt)?;
    let manager = SmPartitionManager::on(device)?;
    let whole = (
        ContextId::Embedding,
        PartitionRequest::rest(),
        ContextPolicy::default(),
    );
    manager.create_partitions(&[whole])?;
    let stream = manager.create_stream(ContextId::Embedding)?;
    Ok((manager, BertEncoder::new(&model, stream, options)?))
}

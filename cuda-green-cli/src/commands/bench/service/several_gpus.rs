//! A service on several GPUs, whose lanes each have one queue for all of them, beside the same on one.

use std::sync::Arc;

use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, GpuMemoryPool, SmPartitionManager,
    planner::PartitionRequest,
};
use cuda_green_embed::{BertModel, CublasLt, Embedder, Lane};
use serde::{Deserialize, Serialize};

use super::{
    closed_loop,
    figures::Latencies,
    floods::{BulkFlood, Flood, THREADS},
    lengths::Lengths,
    placements::{LaneSizes, PARTITION},
    texts::Texts,
};
use crate::commands::bench::embed::setup::Setup;

#[derive(Serialize, Deserialize)]
pub struct ReplicasRow {
    pub gpus: usize,
    /// Texts a second of the bulk lane, beside one caller's queries.
    pub bulk_per_s: f64,
    /// The latencies of those queries.
    pub queries: Latencies,
    /// Queries a second that the interactive lane answers as many callers as keep it busy.
    pub queries_per_s: f64,
    /// Both as multiples of one GPU's. None on a simulated driver.
    pub bulk_to_one: Option<f64>,
    pub queries_to_one: Option<f64>,
}

/// Measures on one GPU, on two, and so on; nothing where there is one. No other manager may have partitions.
pub fn measure(
    setup: &Setup<'_>,
    sizes: LaneSizes,
    texts: &Texts,
    lengths: &Lengths,
    callers: usize,
) -> anyhow::Result<Vec<ReplicasRow>> {
    let driver = setup.device().driver();
    let mut rows: Vec<ReplicasRow> = Vec::new();
    let gpus = driver.device_count()?;
    if gpus < 2 {
        return Ok(rows);
    }
    for gpus in 1..=gpus {
        let devices = (0..gpus).map(|ordinal| Ok(driver.device(ordinal)?));
        let devices: Vec<_> = devices.collect::<anyhow::Result<_>>()?;
        let embedder = service(setup, &devices, sizes)?;
        let mut row = on(&embedder, devices.len(), texts, lengths, callers)?;
        if !driver.is_simulated() {
            let one = rows.first().unwrap_or(&row);
            let bulk_to_one = Some(row.bulk_per_s / one.bulk_per_s);
            let queries_to_one = Some(row.queries_per_s / one.queries_per_s);
            (row.bulk_to_one, row.queries_to_one) = (bulk_to_one, queries_to_one);
        }
        rows.push(row);
        embedder.shutdown();
    }
    Ok(rows)
}

fn service(
    setup: &Setup<'_>,
    devices: &[CudaDevice],
    sizes: LaneSizes,
) -> anyhow::Result<Embedder> {
    let mut replicas = Vec::with_capacity(devices.len());
    for device in devices {
        let pool = GpuMemoryPool::on(device, device.free_memory()?)?;
        let cublaslt = CublasLt::load(device)?;
        let model = BertModel::with_cublaslt(&setup.folder, &pool, setup.precision, cublaslt)?;
        let manager = SmPartitionManager::on(device)?;
        let policy = ContextPolicy::default();
        manager.create_partitions(&[
            (
                ContextId::Embedding,
                PartitionRequest::target(PARTITION),
                policy,
            ),
            (ContextId::Dream, PartitionRequest::rest(), policy),
        ])?;
        replicas.push((model, Arc::new(manager)));
    }
    Ok(Embedder::builder()
        .tokenizer(setup.tokenizer.clone())
        .encoder(Lane::Interactive, sizes.interactive)
        .encoder(Lane::Bulk, sizes.bulk)
        .build_replicas(replicas)?)
}

fn on(
    embedder: &Embedder,
    gpus: usize,
    texts: &Texts,
    lengths: &Lengths,
    callers: usize,
) -> anyhow::Result<ReplicasRow> {
    let (length, queries) = (lengths.one_caller, &texts.queries);
    let queries_per_s = closed_loop::capacity(embedder, queries, lengths.capacity, callers)?;
    let bulk = BulkFlood {
        embedder,
        lists: &texts.lists,
        threads: THREADS * gpus,
    };
    let (outcome, bulk_per_s) = Flood::Bulk(&bulk).beside(lengths.settle, |progress| {
        progress.during(|| closed_loop::one_caller(embedder, queries, closed_loop::PAUSE, length))
    })?;
    Ok(ReplicasRow {
        gpus,
        bulk_per_s,
        queries: Latencies::of(&outcome, &[outcome.at(0.99)]),
        queries_per_s,
        bulk_to_one: None,
        queries_to_one: None,
    })
}

//! What the measurements share: the model, the texts, and encoders on so many SMs.

use std::{fs, sync::Arc, thread};

use anyhow::{Context, ensure};
use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, GpuMemoryPool, SmPartitionManager,
    planner::PartitionRequest,
};
use cuda_green_embed::{
    BertEncoder, BertModel, CublasLt, EncoderOptions, InferencePrecision, ModelFolder, PackedBatch,
    Tokenizer,
};

use super::figures::Model;
use crate::{args::EmbedSource, commands::bench::run::Work};

/// The texts of the file that count.
const TEXTS: usize = 100_000;

pub struct Setup<'a> {
    pub work: &'a Work<'a>,
    pub folder: ModelFolder,
    pub tokenizer: Tokenizer,
    pub texts: Vec<String>,
    pub cublaslt: Arc<CublasLt>,
    pub precision: InferencePrecision,
    pub cores: usize,
}

/// An encoder, the manager that keeps its partition, and the pool of its memory.
pub struct Placed {
    pub encoder: BertEncoder,
    pub manager: SmPartitionManager,
    pub pool: GpuMemoryPool,
}

impl<'a> Setup<'a> {
    pub fn new(work: &'a Work<'a>, source: &EmbedSource) -> anyhow::Result<Self> {
        let (Some(model), Some(texts)) = (&source.model, &source.texts) else {
            anyhow::bail!("--model and --texts say what to measure");
        };
        let folder = ModelFolder::open(model)?;
        let content = fs::read_to_string(texts)
            .with_context(|| format!("cannot read {}", texts.display()))?;
        let count = if work.quick { 40 } else { TEXTS };
        let lines = content.lines().take(count).map(str::to_owned);
        let texts: Vec<_> = lines.collect();
        ensure!(!texts.is_empty(), "the file of texts is empty");
        Ok(Self {
            work,
            tokenizer: folder.tokenizer()?,
            folder,
            texts,
            cublaslt: CublasLt::load(work.device)?,
            precision: InferencePrecision::detect_optimal(work.device).precision,
            cores: thread::available_parallelism().map_or(1, usize::from),
        })
    }

    pub fn device(&self) -> &CudaDevice {
        self.work.device
    }

    /// Returns the device's SMs.
    pub fn all_sms(&self) -> u32 {
        self.device().properties().multiprocessor_count
    }

    /// Returns so many in a real run, and fewer in a quick one.
    pub fn count(&self, real: usize, quick: usize) -> usize {
        if self.work.quick { quick } else { real }
    }

    /// Returns the sizes of batches, in tokens, that are tried.
    pub fn batch_sizes(&self) -> Vec<u32> {
        if self.work.quick {
            return vec![self.folder.max_length() as u32];
        }
        vec![8_192, 16_384, 32_768]
    }

    /// Makes an encoder of the model on so many SMs, or on all.
    pub fn place(
        &self,
        precision: InferencePrecision,
        sms: Option<u32>,
        tokens: u32,
    ) -> anyhow::Result<Placed> {
        let pool = GpuMemoryPool::on(self.device(), self.device().free_memory()?)?;
        let cublaslt = Arc::clone(&self.cublaslt);
        let model = BertModel::with_cublaslt(&self.folder, &pool, precision, cublaslt)?;
        let tokens = tokens.max(self.folder.max_length() as u32);
        self.place_model(
            &model,
            &pool,
            sms,
            EncoderOptions::default().max_tokens(tokens),
        )
    }

    pub fn place_model(
        &self,
        model: &BertModel,
        pool: &GpuMemoryPool,
        sms: Option<u32>,
        options: EncoderOptions,
    ) -> anyhow::Result<Placed> {
        let manager = SmPartitionManager::on(self.device())?;
        let request = sms.map_or(PartitionRequest::rest(), PartitionRequest::target);
        let policy = ContextPolicy::default();
        let own = (ContextId::Embedding, request, policy);
        let other = (ContextId::Dream, PartitionRequest::rest(), policy);
        match sms {
            Some(_) => manager.create_partitions(&[own, other])?,
            None => manager.create_partitions(&[own])?,
        };
        let stream = manager.create_stream(ContextId::Embedding)?;
        Ok(Placed {
            encoder: BertEncoder::new(model, stream, options)?,
            manager,
            pool: pool.clone(),
        })
    }

    /// Returns these texts as batches that are as full as they can be.
    pub fn batches<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t [u32]>,
        most: EncoderOptions,
    ) -> Vec<PackedBatch> {
        let mut batches = vec![PackedBatch::new()];
        for ids in texts {
            let is_full = |batch: &PackedBatch| {
                batch.tokens() + ids.len() > most.max_tokens as usize
                    || batch.texts() == most.max_texts as usize
            };
            if batches.last().is_none_or(is_full) {
                batches.push(PackedBatch::new());
            }
            if let Some(batch) = batches.last_mut() {
                batch.push(ids);
            }
        }
        batches.retain(|batch| !batch.is_empty());
        batches
    }

    pub fn describe(&self) -> Model {
        let config = self.folder.config();
        let (hidden, between) = (config.hidden_size, config.intermediate_size);
        let products = (4 * hidden * hidden + 2 * hidden * between) * config.layers;
        Model {
            name: self.folder.name(),
            layers: config.layers,
            hidden_size: hidden,
            precision: self.precision.name().to_owned(),
            flop_per_token: 2 * products as u64,
            texts: self.texts.len(),
            cores: self.cores,
        }
    }
}

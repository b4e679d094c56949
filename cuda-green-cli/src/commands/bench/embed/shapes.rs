//! A larger model's true shape, with random weights: its speed does not depend on what the weights are.

use std::sync::Arc;

use cuda_green::GpuMemoryPool;
use cuda_green_embed::{
    BertConfig, BertModel, BertWeights, EncoderOptions, ModelHead, PackedBatch, Pooling,
};

use super::{bulk::seconds, figures::Shape, setup::Setup};

/// The tokens of a text, and the texts of a batch.
const BATCHES: [(usize, usize); 2] = [(50, 512), (512, 64)];

pub fn measure(setup: &Setup<'_>) -> anyhow::Result<Vec<Shape>> {
    // The simulated driver would compute for minutes.
    let simulated = setup.device().driver().is_simulated();
    let (name, config) = match simulated {
        true => ("small", BertConfig::of(64, 1, 2)),
        false => ("BERT-base", BertConfig::bert_base()),
    };
    let head = ModelHead {
        pooling: Pooling::Mean,
        normalize: true,
        max_length: config.positions,
    };
    let pool = GpuMemoryPool::on(setup.device(), setup.device().free_memory()?)?;
    let weights = BertWeights::random(&config, 1);
    let cublaslt = Arc::clone(&setup.cublaslt);
    let model = BertModel::from_weights(&config, &weights, head, &pool, setup.precision, cublaslt)?;
    let mut rows = Vec::new();
    for (tokens, texts) in BATCHES {
        let texts = if simulated { 1 } else { texts };
        let most = (tokens * texts).max(config.positions) as u32;
        let options = EncoderOptions::default()
            .max_tokens(most)
            .max_texts(texts as u32);
        let placed = setup.place_model(&model, &pool, None, options)?;
        let mut batch = PackedBatch::new();
        for text in 0..texts {
            let ids = (0..tokens).map(|token| 1000 + ((text * 31 + token * 7) % 20_000) as u32);
            batch.push(&ids.collect::<Vec<_>>());
        }
        let batches = vec![batch; setup.count(100, 2)];
        seconds(&placed.encoder, &batches[..batches.len().min(5)])?;
        let time = seconds(&placed.encoder, &batches)?;
        rows.push(Shape {
            name: name.to_owned(),
            tokens_of_text: tokens,
            texts_of_batch: texts,
            tokens_per_s: (tokens * texts * batches.len()) as f64 / time,
        });
    }
    Ok(rows)
}

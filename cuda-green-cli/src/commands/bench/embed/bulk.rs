//! Many texts: end to end, pre-tokenised, by SMs, and tokenised alone.

use std::{collections::VecDeque, time::Instant};

use cuda_green::CudaDevice;
use cuda_green_embed::{BertEncoder, BulkEmbedder, Encoder, EncoderOptions, PackedBatch};

use super::{
    figures::{Bulk, BySms, Memory, Sorted, Tokeniser},
    setup::Setup,
};

/// The sizes of partitions that are compared, in SMs.
const SIZES: [u32; 5] = [8, 16, 32, 64, 96];
/// The operations a second of the tensor cores of an H200 in 16 bits, as measured with products of 8192³.
const PEAK: f64 = 790e12;

/// Measures the tokeniser on one core and on all.
pub fn tokeniser(setup: &Setup<'_>) -> anyhow::Result<Tokeniser> {
    let few = &setup.texts[..setup.texts.len().min(20_000)];
    let speed = |texts: &[String], threads| -> anyhow::Result<f64> {
        setup.tokenizer.encode_batch(texts, threads)?;
        let start = Instant::now();
        setup.tokenizer.encode_batch(texts, threads)?;
        Ok(texts.len() as f64 / start.elapsed().as_secs_f64())
    };
    Ok(Tokeniser {
        one_core_texts_per_s: speed(few, 1)?,
        all_cores_texts_per_s: speed(&setup.texts, setup.cores)?,
    })
}

/// Measures all texts, tokenised meanwhile, on the whole GPU, and the memory that it takes.
pub fn end_to_end(setup: &Setup<'_>) -> anyhow::Result<(Vec<Bulk>, Memory)> {
    let mut rows = Vec::new();
    let mut memory = None;
    for tokens in setup.batch_sizes() {
        let free = setup.device().free_memory()?;
        let placed = setup.place(setup.precision, None, tokens)?;
        let taken = taken(setup.device(), free)?;
        let encoder = &placed.encoder;
        let embedder = BulkEmbedder::new(&setup.tokenizer, encoder).threads(setup.cores);
        // Warm up.
        let few = setup.texts.iter().take(setup.count(5_000, 3));
        embedder.embed(few, |_, _| Ok(()))?;
        let used = placed.pool.used();
        let start = Instant::now();
        let timeline = embedder.embed(&setup.texts, |_, _| Ok(()))?;
        let wall_s = start.elapsed().as_secs_f64();
        let weights = encoder.model().weight_bytes() as u64;
        let activations = encoder.activation_bytes() as u64;
        memory = Some(Memory {
            batch_tokens: tokens,
            weight_bytes: weights,
            activation_bytes: activations,
            pool_used_bytes: used,
            pool_used_after_all_texts_bytes: placed.pool.used(),
            pool_high_water_bytes: placed.pool.high_water_mark(),
            device_bytes: taken,
            device_after_all_texts_bytes: self::taken(setup.device(), free)?,
        });
        // The same texts in full batches, back to back, are the time that the GPU needs.
        let all = setup.tokenizer.encode_batch(&setup.texts, setup.cores)?;
        let most = EncoderOptions::default().max_tokens(encoder.limits().tokens as u32);
        let texts = (0..all.texts()).filter_map(|text| all.text(text));
        let gpu_s = seconds(encoder, &setup.batches(texts, most))?;
        rows.push(Bulk {
            batch_tokens: tokens,
            texts_per_s: setup.texts.len() as f64 / wall_s,
            tokens_per_s: all.tokens() as f64 / wall_s,
            mean_tokens: all.tokens() as f64 / setup.texts.len() as f64,
            gpu_busy: (gpu_s / wall_s).min(1.0),
            computing: timeline.overlap().compute_busy,
            tokenising_hidden: timeline.overlap().prepare_hidden,
        });
    }
    Ok((rows, memory.unwrap_or_default()))
}

fn taken(device: &CudaDevice, free_before: u64) -> anyhow::Result<u64> {
    Ok(free_before.saturating_sub(device.free_memory()?))
}

/// Returns the ids of the first texts, sorted by length.
pub fn sorted(setup: &Setup<'_>, most: usize) -> anyhow::Result<Vec<Vec<u32>>> {
    let texts = &setup.texts[..setup.texts.len().min(most)];
    let all = setup.tokenizer.encode_batch(texts, setup.cores)?;
    let ids = (0..all.texts()).filter_map(|text| all.text(text));
    let mut ids: Vec<_> = ids.map(<[u32]>::to_vec).collect();
    ids.sort_by_key(Vec::len);
    Ok(ids)
}

/// Measures all texts, tokenised before and sorted by length, on the whole GPU.
pub fn pretokenised(setup: &Setup<'_>) -> anyhow::Result<Vec<Sorted>> {
    let ids = sorted(setup, usize::MAX)?;
    let tokens: usize = ids.iter().map(Vec::len).sum();
    let flop = setup.describe().flop_per_token as f64;
    let mut rows = Vec::new();
    for batch_tokens in setup.batch_sizes() {
        let placed = setup.place(setup.precision, None, batch_tokens)?;
        let most = EncoderOptions::default().max_tokens(batch_tokens);
        let batches = setup.batches(ids.iter().map(Vec::as_slice), most);
        seconds(&placed.encoder, &batches[..batches.len().min(5)])?;
        let tokens_per_s = tokens as f64 / seconds(&placed.encoder, &batches)?;
        rows.push(Sorted {
            batch_tokens,
            tokens_per_s,
            of_790_tflops: tokens_per_s * flop / PEAK,
        });
    }
    Ok(rows)
}

/// Measures how the speed grows with the SMs.
pub fn by_sms(setup: &Setup<'_>) -> anyhow::Result<Vec<BySms>> {
    let ids = sorted(setup, 20_000)?;
    let total = setup.all_sms();
    let mut rows: Vec<BySms> = Vec::new();
    let sizes = SIZES.into_iter().filter(|sms| *sms < total);
    for sms in sizes.map(Some).chain([None]) {
        let tokens = setup.count(16_384, 0) as u32;
        let placed = setup.place(setup.precision, sms, tokens)?;
        let most = EncoderOptions::default().max_tokens(placed.encoder.limits().tokens as u32);
        let batches = setup.batches(ids.iter().map(Vec::as_slice), most);
        seconds(&placed.encoder, &batches[..batches.len().min(3)])?;
        let texts_per_s = ids.len() as f64 / seconds(&placed.encoder, &batches)?;
        let sms = placed
            .manager
            .get_context(cuda_green::ContextId::Embedding)?
            .sm_count();
        rows.push(BySms { sms, texts_per_s });
    }
    Ok(rows)
}

/// Returns the seconds that batches take back to back, with as many on the way as the encoder has places for.
pub fn seconds(encoder: &BertEncoder, batches: &[PackedBatch]) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut on_the_way = VecDeque::new();
    for batch in batches {
        on_the_way.push_back(encoder.submit(batch)?);
        if on_the_way.len() == 3
            && let Some(oldest) = on_the_way.pop_front()
        {
            oldest.wait()?;
        }
    }
    for pending in on_the_way {
        pending.wait()?;
    }
    Ok(start.elapsed().as_secs_f64())
}

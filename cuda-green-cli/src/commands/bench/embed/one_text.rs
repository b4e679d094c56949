//! One text at a time, text in and vector out: on the whole GPU, in a partition, and beside a flood on the other SMs.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use cuda_green::ContextId;
use cuda_green_embed::{Encoder, PackedBatch};

use super::{
    figures::OneText,
    setup::{Placed, Setup},
};
use crate::commands::bench::{
    load::{LONG_BLOCKS, Load},
    samples::{Latencies, Samples},
};

/// The tokens of the texts, about.
const LENGTHS: [usize; 5] = [14, 32, 64, 128, 256];
/// The SMs of the partition.
const SMS: u32 = 32;
/// Between two requests, as in the peers' measurement.
const PAUSE: Duration = Duration::from_micros(500);

pub fn measure(setup: &Setup<'_>) -> anyhow::Result<Vec<OneText>> {
    let texts = texts(setup)?;
    let mut rows = Vec::new();
    let sms = SMS.min(setup.all_sms() / 2);
    for sms in [None, Some(sms)] {
        let placed = setup.place(setup.precision, sms, 512)?;
        for (tokens, text) in &texts {
            let alone = latencies(setup, &placed, text)?;
            rows.push(row(&placed, *tokens, None, alone)?);
        }
        if sms.is_none() {
            continue;
        }
        let load = Load::new(setup.device(), setup.work.quick)?;
        let other = placed
            .manager
            .get_context(ContextId::Dream)?
            .create_stream()?;
        for (tokens, text) in &texts {
            let beside = load.beside(LONG_BLOCKS, &other, || latencies(setup, &placed, text))?;
            rows.push(row(&placed, *tokens, Some(LONG_BLOCKS.name), beside)?);
        }
    }
    Ok(rows)
}

fn row(
    placed: &Placed,
    tokens: usize,
    flood: Option<&str>,
    latencies: Latencies,
) -> anyhow::Result<OneText> {
    let context = placed.manager.get_context(ContextId::Embedding)?;
    Ok(OneText {
        sms: context.sm_count(),
        tokens,
        flood: flood.map(str::to_owned),
        latencies,
    })
}

/// Returns texts of about these numbers of tokens, made of the file's words, each with its own number.
fn texts(setup: &Setup<'_>) -> anyhow::Result<Vec<(usize, String)>> {
    let words: Vec<&str> = setup
        .texts
        .iter()
        .flat_map(|text| text.split_whitespace())
        .take(1000)
        .collect();
    let mut texts: Vec<(usize, String)> = Vec::new();
    for wanted in LENGTHS.map(|length| length.min(setup.folder.max_length())) {
        let mut text = String::new();
        let mut tokens = setup.tokenizer.encode(&text)?.len();
        for word in words.iter().cycle().take(2 * wanted) {
            let longer = format!("{text} {word}");
            let found = setup.tokenizer.encode(&longer)?.len();
            if found <= wanted {
                (text, tokens) = (longer, found);
            }
            if found >= wanted {
                break;
            }
        }
        if texts.last().is_none_or(|(before, _)| *before < tokens) {
            texts.push((tokens, text));
        }
    }
    Ok(texts)
}

fn latencies(setup: &Setup<'_>, placed: &Placed, text: &str) -> anyhow::Result<Latencies> {
    let mut batch = PackedBatch::new();
    let mut once = || -> anyhow::Result<f64> {
        let start = Instant::now();
        batch.clear();
        batch.push(&setup.tokenizer.encode(text)?);
        let vectors = placed.encoder.encode(&batch)?;
        vectors.get(0).context("a text without a vector")?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    };
    for _ in 0..setup.count(100, 1) {
        once()?;
    }
    let mut samples = Vec::new();
    for _ in 0..setup.count(1_000, 3) {
        samples.push(once()?);
        thread::sleep(PAUSE);
    }
    Ok(Samples::of(samples).into())
}

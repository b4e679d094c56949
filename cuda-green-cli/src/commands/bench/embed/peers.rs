//! The figures of others, measured in the same run by `peers_embed.py`, and ours as their multiples.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde::Deserialize;

use super::figures::{EmbedFigures, ToPeer};

/// The output of `peers_embed.py`.
#[derive(Deserialize)]
pub struct Peers {
    first_vector_s: Option<f64>,
    sentence_transformers_texts_per_s: BTreeMap<String, f64>,
    one_text: OneText,
    padded_graph_tokens_per_s: BTreeMap<String, f64>,
    bert_base_padded_graph_tokens_per_s: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct OneText {
    sentence_transformers: Median,
    forward: Median,
    graph: Median,
}

#[derive(Deserialize)]
struct Median {
    p50_us: f64,
}

pub fn read(path: &Path) -> anyhow::Result<Peers> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not the output of peers_embed.py", path.display()))
}

/// Returns how many times as good ours are.
pub fn compare(figures: &EmbedFigures, peers: &Peers) -> Vec<ToPeer> {
    let best = |of: &BTreeMap<String, f64>| of.values().copied().reduce(f64::max);
    let mut rows = Vec::new();
    let mut row = |figure: &str, peer: &str, ours: Option<f64>, theirs: Option<f64>, more: bool| {
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            rows.push(ToPeer {
                figure: figure.to_owned(),
                peer: peer.to_owned(),
                ours,
                theirs,
                times: if more { ours / theirs } else { theirs / ours },
            });
        }
    };
    let bulk = figures.bulk.iter().map(|row| row.texts_per_s);
    row(
        "texts/s, end to end",
        "sentence-transformers, best batch",
        bulk.reduce(f64::max),
        best(&peers.sentence_transformers_texts_per_s),
        true,
    );
    let sorted = figures.sorted.iter().map(|row| row.tokens_per_s);
    row(
        "tokens/s, pre-tokenised",
        "padded CUDA graphs, best batch",
        sorted.reduce(f64::max),
        best(&peers.padded_graph_tokens_per_s),
        true,
    );
    let one = figures.one_text.iter().find(|row| row.flood.is_none());
    let one = one.map(|row| row.latencies.p50_us);
    let theirs = &peers.one_text;
    for (peer, theirs) in [
        ("sentence-transformers", &theirs.sentence_transformers),
        ("PyTorch, no tokeniser", &theirs.forward),
        ("CUDA graph, no tokeniser", &theirs.graph),
    ] {
        row("one text, p50 in us", peer, one, Some(theirs.p50_us), false);
    }
    for shape in &figures.shapes {
        let tokens = shape.tokens_of_text.to_string();
        row(
            &format!("{}, {tokens} tokens, tokens/s", shape.name),
            "padded CUDA graph",
            Some(shape.tokens_per_s),
            peers
                .bert_base_padded_graph_tokens_per_s
                .get(&tokens)
                .copied(),
            true,
        );
    }
    row(
        "first vector in s",
        "sentence-transformers",
        Some(figures.first_vector_s),
        peers.first_vector_s,
        false,
    );
    rows
}

//! Vectors of sentence-transformers, made on a GPU by `xtask/peers/golden_embed.py`, for ordinary and hostile texts.

use cuda_green_embed::{CpuEncoder, Encoder, ModelFolder};
use serde::Deserialize;

use crate::support::mini_lm;

#[derive(Deserialize)]
struct Golden {
    max_seq_length: usize,
    texts: Vec<Text>,
}

/// A text, given as a part and how many times it comes.
#[derive(Deserialize)]
struct Text {
    part: String,
    times: usize,
    tokens: usize,
    vector: Vec<f32>,
}

#[test]
fn every_text_has_the_vector_of_sentence_transformers() {
    let Some(path) = mini_lm() else { return };
    let golden: Golden = serde_json::from_str(include_str!("../data/golden.json")).unwrap();
    let folder = ModelFolder::open(path).unwrap();
    let tokenizer = folder
        .tokenizer()
        .unwrap()
        .with_max_length(golden.max_seq_length);
    let encoder = CpuEncoder::open(&folder).unwrap();
    assert!(golden.texts.len() > 20);
    for text in golden.texts {
        let name = format!("{:?} × {}", text.part, text.times);
        let batch = tokenizer
            .encode_batch(&[text.part.repeat(text.times)], 1)
            .unwrap();
        assert_eq!(batch.tokens(), text.tokens, "{name}");
        let vectors = encoder.encode(&batch).unwrap();
        for (ours, theirs) in vectors.values().iter().zip(&text.vector) {
            assert!((ours - theirs).abs() < 2e-6, "{name}: {ours} {theirs}");
        }
    }
}

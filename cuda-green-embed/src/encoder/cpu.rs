//! The reference: BERT in plain `f32` on the CPU, for tests.
//!
//! Clear rather than fast. Every token's values are computed in the same order whatever is beside it, so that a text has
//! the same vector, bit for bit, in each batch.

mod ops;

use std::{ops::Range, thread};

use ops::{Dense, Norm, add, attention, gelu};

use super::{Encoder, EncoderLimits, PendingEmbeddings};
use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    error::{Error, Result},
    model::{BertConfig, BertLayer, BertWeights, ModelFolder, Pooling},
    parallel::in_order,
};

/// The tokens that a thread takes at a time, about: enough to use each weight that it reads several times.
const TOKENS_AT_A_TIME: usize = 128;

/// The reference in plain `f32` on the CPU. Not for production: a GPU is a thousand times as fast.
#[derive(Debug)]
pub struct CpuEncoder {
    config: BertConfig,
    pooling: Pooling,
    normalize: bool,
    word_embeddings: Vec<f32>,
    position_embeddings: Vec<f32>,
    token_type_embeddings: Vec<f32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    query: Dense,
    key: Dense,
    value: Dense,
    attention_output: Dense,
    attention_norm: Norm,
    intermediate: Dense,
    output: Dense,
    output_norm: Norm,
}

impl CpuEncoder {
    /// Makes one of a model's folder.
    ///
    /// # Errors
    /// As [`ModelFolder::weights`].
    pub fn open(folder: &ModelFolder) -> Result<Self> {
        let weights = folder.weights()?;
        let (pooling, normalize) = (folder.pooling(), folder.normalize());
        Ok(Self::new(folder.config(), &weights, pooling, normalize))
    }

    /// Makes one of weights of these sizes.
    pub fn new(
        config: &BertConfig,
        weights: &BertWeights,
        pooling: Pooling,
        normalize: bool,
    ) -> Self {
        let epsilon = config.layer_norm_eps;
        Self {
            config: config.clone(),
            pooling,
            normalize,
            word_embeddings: weights.word_embeddings.to_f32(),
            position_embeddings: weights.position_embeddings.to_f32(),
            token_type_embeddings: weights.token_type_embeddings.to_f32(),
            embedding_norm: Norm::new(&weights.embedding_norm, epsilon),
            layers: weights
                .layers
                .iter()
                .map(|layer| Layer::new(layer, epsilon))
                .collect(),
        }
    }

    /// Returns the states of a batch's tokens after so many layers, `hidden_size` values a token; after none, the
    /// normalised embeddings.
    ///
    /// # Errors
    /// As [`encode`](Encoder::encode), for a batch that does not fit.
    pub fn states(&self, batch: &PackedBatch, layers: usize) -> Result<Vec<f32>> {
        self.limits().check(batch, self.config.vocabulary)?;
        let parts = self.in_parts(batch, |texts| self.forward(batch, texts, layers));
        Ok(parts.concat())
    }

    /// Computes the states of some of a batch's texts.
    fn forward(&self, batch: &PackedBatch, texts: Range<usize>, layers: usize) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let row = |table: &[f32], index: usize| table[index * hidden..][..hidden].to_vec();
        let mut lengths = Vec::new();
        let mut states = Vec::new();
        for text in texts {
            let tokens = batch.text(text).unwrap_or_default();
            lengths.push(tokens.len());
            for (position, token) in tokens.iter().enumerate() {
                let mut state = row(&self.word_embeddings, *token as usize);
                add(&mut state, &row(&self.position_embeddings, position));
                add(&mut state, &row(&self.token_type_embeddings, 0));
                states.extend(state);
            }
        }
        self.embedding_norm.apply(&mut states);
        for layer in self.layers.iter().take(layers) {
            states = layer.apply(states, &lengths, self.config.head_size());
        }
        states
    }

    /// Computes the vectors of some of a batch's texts.
    fn vectors(&self, batch: &PackedBatch, texts: Range<usize>) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let states = self.forward(batch, texts.clone(), self.layers.len());
        let mut states = states.as_slice();
        let mut vectors = Vec::new();
        for text in texts {
            let tokens = batch.text(text).unwrap_or_default().len();
            let (own, others) = states.split_at(tokens * hidden);
            states = others;
            let mut vector = match self.pooling {
                Pooling::Cls => own[..hidden].to_vec(),
                Pooling::Mean => {
                    let mut sum = vec![0.0; hidden];
                    own.chunks_exact(hidden)
                        .for_each(|state| add(&mut sum, state));
                    sum.iter().map(|value| value / tokens as f32).collect()
                }
            };
            if self.normalize {
                let square: f64 = vector.iter().map(|value| f64::from(value * value)).sum();
                let length = square.sqrt().max(1e-12) as f32;
                vector.iter_mut().for_each(|value| *value /= length);
            }
            vectors.extend(vector);
        }
        vectors
    }

    /// Returns what a function gives for the texts of a batch, some at a time, in order, on all cores.
    fn in_parts(
        &self,
        batch: &PackedBatch,
        function: impl Fn(Range<usize>) -> Vec<f32> + Sync,
    ) -> Vec<Vec<f32>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for text in 0..batch.texts() {
            let tokens = batch.starts()[text + 1] - batch.starts()[start];
            if tokens as usize >= TOKENS_AT_A_TIME || text + 1 == batch.texts() {
                parts.push(start..text + 1);
                start = text + 1;
            }
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        in_order(parts.len(), threads, |part| function(parts[part].clone()))
    }
}

impl Encoder for CpuEncoder {
    fn limits(&self) -> EncoderLimits {
        EncoderLimits {
            dimension: self.config.hidden_size,
            tokens_of_text: self.config.positions,
            tokens: u32::MAX as usize,
            texts: u32::MAX as usize,
        }
    }

    /// Encodes a batch at once: its vectors are there when this returns.
    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        self.limits().check(batch, self.config.vocabulary)?;
        let values = self.in_parts(batch, |texts| self.vectors(batch, texts));
        let vectors = Embeddings::new(self.config.hidden_size, values.concat());
        let infinite = |vector: &[f32]| vector.iter().any(|value| !value.is_finite());
        let overflow = vectors.iter().position(infinite);
        Ok(PendingEmbeddings::new(move || match overflow {
            None => Ok(vectors),
            Some(text) => Err(Error::Overflow {
                text,
                precision: "f32",
            }),
        }))
    }
}

impl Layer {
    fn new(layer: &BertLayer, epsilon: f32) -> Self {
        Self {
            query: Dense::new(&layer.query),
            key: Dense::new(&layer.key),
            value: Dense::new(&layer.value),
            attention_output: Dense::new(&layer.attention_output),
            attention_norm: Norm::new(&layer.attention_norm, epsilon),
            intermediate: Dense::new(&layer.intermediate),
            output: Dense::new(&layer.output),
            output_norm: Norm::new(&layer.output_norm, epsilon),
        }
    }

    /// Returns the states after the layer, of texts of these lengths.
    fn apply(&self, states: Vec<f32>, lengths: &[usize], head_size: usize) -> Vec<f32> {
        let [query, key, value] =
            [&self.query, &self.key, &self.value].map(|dense| dense.apply(&states));
        let hidden = self.query.outputs();
        let context = attention(&query, &key, &value, lengths, hidden, head_size);
        let mut attended = self.attention_output.apply(&context);
        add(&mut attended, &states);
        self.attention_norm.apply(&mut attended);

        let mut inner = self.intermediate.apply(&attended);
        inner.iter_mut().for_each(|value| *value = gelu(*value));
        let mut output = self.output.apply(&inner);
        add(&mut output, &attended);
        self.output_norm.apply(&mut output);
        output
    }
}

//! The sizes of a BERT model.

use super::json::Members;
use crate::error::Result;

// Far above those of any published BERT, and low enough that no product of two of them overflows.
const MOST_WIDTH: usize = 1 << 16;
const MOST_LAYERS: usize = 1 << 10;
const MOST_VOCABULARY: usize = 1 << 24;
const MOST_POSITIONS: usize = 1 << 20;

/// The sizes of a BERT model: post-norm layers, absolute positions, exact (error-function) GELU.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BertConfig {
    /// The number of values in a token's state, and in a vector.
    pub hidden_size: usize,
    /// The number of layers.
    pub layers: usize,
    /// The number of attention heads in a layer. It divides `hidden_size`.
    pub heads: usize,
    /// The width of the feed-forward part.
    pub intermediate_size: usize,
    /// The number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The most tokens in a text that the position embeddings allow.
    pub positions: usize,
    /// The number of token types. Embedding uses the first.
    pub token_types: usize,
    /// The number that layer normalisation adds to the variance.
    pub layer_norm_eps: f32,
}

impl BertConfig {
    /// Returns the number of values in a head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.heads.max(1)
    }

    /// Reads `config.json` and refuses every model that is not a plain BERT.
    pub(super) fn read(file: Members<'_>) -> Result<Self> {
        check_architecture(file)?;
        let config = Self {
            hidden_size: file.required_size("hidden_size", MOST_WIDTH)?,
            layers: file.required_size("num_hidden_layers", MOST_LAYERS)?,
            heads: file.required_size("num_attention_heads", MOST_WIDTH)?,
            intermediate_size: file.required_size("intermediate_size", MOST_WIDTH)?,
            vocabulary: file.required_size("vocab_size", MOST_VOCABULARY)?,
            positions: file.required_size("max_position_embeddings", MOST_POSITIONS)?,
            token_types: file.size("type_vocab_size", MOST_WIDTH)?.unwrap_or(2),
            layer_norm_eps: file.float("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        };
        if !config.hidden_size.is_multiple_of(config.heads) {
            return Err(file.refuse(format!(
                "`num_attention_heads`: {} does not divide `hidden_size` {}",
                config.heads, config.hidden_size
            )));
        }
        // An infinite one would make every vector zero.
        if !(0.0..1.0).contains(&config.layer_norm_eps) {
            return Err(file.refuse(format!(
                "`layer_norm_eps`: expected a number from 0 to 1, found {}",
                config.layer_norm_eps
            )));
        }
        Ok(config)
    }
}

#[cfg(feature = "test-utils")]
impl BertConfig {
    /// Returns the sizes of all-MiniLM-L6-v2.
    pub fn mini_lm() -> Self {
        Self::of(384, 6, 12)
    }

    /// Returns the sizes of bge-small-en-v1.5.
    pub fn bge_small() -> Self {
        Self::of(384, 12, 12)
    }

    /// Returns the sizes of bert-base-uncased.
    pub fn bert_base() -> Self {
        Self::of(768, 12, 12)
    }

    /// Returns the sizes of bert-large-uncased.
    pub fn bert_large() -> Self {
        Self::of(1024, 24, 16)
    }

    /// Returns the sizes of an English BERT of this width, depth and number of heads. The fields can be changed.
    pub fn of(hidden_size: usize, layers: usize, heads: usize) -> Self {
        Self {
            hidden_size,
            layers,
            heads,
            intermediate_size: 4 * hidden_size,
            vocabulary: 30522,
            positions: 512,
            token_types: 2,
            layer_norm_eps: 1e-12,
        }
    }
}

fn check_architecture(file: Members<'_>) -> Result<()> {
    const MODELS: &str = "`bert`: MiniLM, BGE, E5, GTE and others with BertModel's layers";
    let Some(kind) = file.string("model_type")? else {
        return Err(file.absent("model_type"));
    };
    if kind != "bert" {
        return Err(file.unsupported("model_type", kind, MODELS));
    }
    // Some models with layers of their own call themselves `bert` too.
    let architecture = file.get("architectures")?.and_then(|list| list.get(0));
    if let Some(name) = architecture.and_then(|name| name.as_str())
        && !name.starts_with("Bert")
    {
        return Err(file.unsupported("architectures", name, MODELS));
    }
    let activation = file.string("hidden_act")?.unwrap_or("gelu");
    if !["gelu", "gelu_python"].contains(&activation) {
        return Err(file.unsupported("hidden_act", activation, "`gelu`, by the error function"));
    }
    let position = file
        .string("position_embedding_type")?
        .unwrap_or("absolute");
    if position != "absolute" {
        return Err(file.unsupported("position_embedding_type", position, "`absolute`"));
    }
    if file.boolean("is_decoder")? == Some(true) {
        return Err(file.unsupported(
            "is_decoder",
            true,
            "false: every token sees all of its text",
        ));
    }
    Ok(())
}

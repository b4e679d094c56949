//! The weights of a BERT model, in the order of its layers.

use super::{config::BertConfig, tensor::Tensor, weight_file::WeightFile};
use crate::error::{Error, Result};

/// The weights of a BERT model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BertWeights {
    /// A row for each token: `[vocabulary, hidden_size]`.
    pub word_embeddings: Tensor,
    /// A row for each position: `[positions, hidden_size]`.
    pub position_embeddings: Tensor,
    /// A row for each token type: `[token_types, hidden_size]`.
    pub token_type_embeddings: Tensor,
    /// The norm of the embeddings' sum.
    pub embedding_norm: LayerNorm,
    /// The layers, first to last.
    pub layers: Vec<BertLayer>,
}

/// The weights of a layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BertLayer {
    /// `[hidden_size, hidden_size]`, head by head.
    pub query: Linear,
    /// `[hidden_size, hidden_size]`, head by head.
    pub key: Linear,
    /// `[hidden_size, hidden_size]`, head by head.
    pub value: Linear,
    /// `[hidden_size, hidden_size]`.
    pub attention_output: Linear,
    /// The norm of the attention's output and its input.
    pub attention_norm: LayerNorm,
    /// `[intermediate_size, hidden_size]`, before the GELU.
    pub intermediate: Linear,
    /// `[hidden_size, intermediate_size]`, after the GELU.
    pub output: Linear,
    /// The norm of the layer's output and the first norm's.
    pub output_norm: LayerNorm,
}

/// A matrix product and a sum: `input · weightᵀ + bias`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
}

/// The scale and shift after a normalisation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerNorm {
    /// `[hidden_size]`.
    pub weight: Tensor,
    /// `[hidden_size]`.
    pub bias: Tensor,
}

impl BertWeights {
    pub(super) fn read(file: &WeightFile, config: &BertConfig) -> Result<Self> {
        // Models with a head for another task name the BERT inside them.
        let inside = "bert.";
        let prefix = match file.contains(&format!("{inside}embeddings.word_embeddings.weight")) {
            true => inside,
            false => "",
        };
        // The norms of the oldest models are named as TensorFlow did.
        let old_names = file.contains(&format!("{prefix}embeddings.LayerNorm.gamma"));
        Self::build(config, |name, shape| {
            let mut name = format!("{prefix}{name}");
            if old_names {
                name = name
                    .replace("LayerNorm.weight", "LayerNorm.gamma")
                    .replace("LayerNorm.bias", "LayerNorm.beta");
            }
            file.tensor(name, shape)
        })
    }

    /// Builds the weights of these sizes from what makes each tensor from its name and shape.
    pub(super) fn build<E>(
        config: &BertConfig,
        mut tensor: impl FnMut(&str, &[usize]) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        let hidden = config.hidden_size;
        let mut embedding = |name: &str, rows| {
            let name = format!("embeddings.{name}_embeddings.weight");
            tensor(&name, &[rows, hidden])
        };
        Ok(Self {
            word_embeddings: embedding("word", config.vocabulary)?,
            position_embeddings: embedding("position", config.positions)?,
            token_type_embeddings: embedding("token_type", config.token_types)?,
            embedding_norm: LayerNorm::build("embeddings.LayerNorm", hidden, &mut tensor)?,
            layers: (0..config.layers)
                .map(|index| BertLayer::build(index, config, &mut tensor))
                .collect::<Result<_, E>>()?,
        })
    }

    /// Ensures that every tensor has the shape that a configuration says: the GPU reads that many values.
    pub(crate) fn ensure_shapes(&self, config: &BertConfig) -> Result<()> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        if self.layers.len() != config.layers {
            return Err(Error::InvalidConfig {
                field: "number of layers in the weights",
                found: self.layers.len(),
                expected: format!("{}, as in the configuration", config.layers),
            });
        }
        ensure_shape(&self.word_embeddings, &[config.vocabulary, hidden])?;
        ensure_shape(&self.position_embeddings, &[config.positions, hidden])?;
        ensure_shape(&self.token_type_embeddings, &[config.token_types, hidden])?;
        self.embedding_norm.ensure_shapes(hidden)?;
        for layer in &self.layers {
            for square in [
                &layer.query,
                &layer.key,
                &layer.value,
                &layer.attention_output,
            ] {
                square.ensure_shapes(hidden, hidden)?;
            }
            layer.attention_norm.ensure_shapes(hidden)?;
            layer.intermediate.ensure_shapes(intermediate, hidden)?;
            layer.output.ensure_shapes(hidden, intermediate)?;
            layer.output_norm.ensure_shapes(hidden)?;
        }
        Ok(())
    }

    /// Returns all tensors, in the order of their use.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let embeddings = [
            &self.word_embeddings,
            &self.position_embeddings,
            &self.token_type_embeddings,
            &self.embedding_norm.weight,
            &self.embedding_norm.bias,
        ];
        let layers = self.layers.iter().flat_map(BertLayer::tensors);
        embeddings.into_iter().chain(layers)
    }
}

impl BertLayer {
    fn build<E>(
        index: usize,
        config: &BertConfig,
        tensor: &mut impl FnMut(&str, &[usize]) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let at = |name: &str| format!("encoder.layer.{index}.{name}");
        let mut linear = |name: &str, outputs, inputs| -> Result<Linear, E> {
            let name = at(name);
            Ok(Linear {
                weight: tensor(&format!("{name}.weight"), &[outputs, inputs])?,
                bias: tensor(&format!("{name}.bias"), &[outputs])?,
            })
        };
        Ok(Self {
            query: linear("attention.self.query", hidden, hidden)?,
            key: linear("attention.self.key", hidden, hidden)?,
            value: linear("attention.self.value", hidden, hidden)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            intermediate: linear("intermediate.dense", intermediate, hidden)?,
            output: linear("output.dense", hidden, intermediate)?,
            attention_norm: LayerNorm::build(&at("attention.output.LayerNorm"), hidden, tensor)?,
            output_norm: LayerNorm::build(&at("output.LayerNorm"), hidden, tensor)?,
        })
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [
            &self.query.weight,
            &self.query.bias,
            &self.key.weight,
            &self.key.bias,
            &self.value.weight,
            &self.value.bias,
            &self.attention_output.weight,
            &self.attention_output.bias,
            &self.attention_norm.weight,
            &self.attention_norm.bias,
            &self.intermediate.weight,
            &self.intermediate.bias,
            &self.output.weight,
            &self.output.bias,
            &self.output_norm.weight,
            &self.output_norm.bias,
        ]
        .into_iter()
    }
}

fn ensure_shape(tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.shape() == expected {
        return Ok(());
    }
    Err(Error::WeightShape {
        tensor: tensor.name().to_owned(),
        expected: expected.to_vec(),
        found: tensor.shape().to_vec(),
    })
}

impl Linear {
    fn ensure_shapes(&self, outputs: usize, inputs: usize) -> Result<()> {
        ensure_shape(&self.weight, &[outputs, inputs])?;
        ensure_shape(&self.bias, &[outputs])
    }
}

impl LayerNorm {
    fn ensure_shapes(&self, hidden: usize) -> Result<()> {
        ensure_shape(&self.weight, &[hidden])?;
        ensure_shape(&self.bias, &[hidden])
    }

    fn build<E>(
        name: &str,
        hidden: usize,
        tensor: &mut impl FnMut(&str, &[usize]) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            weight: tensor(&format!("{name}.weight"), &[hidden])?,
            bias: tensor(&format!("{name}.bias"), &[hidden])?,
        })
    }
}

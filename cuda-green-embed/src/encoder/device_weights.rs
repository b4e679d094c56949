//! A model's weights in device memory, in one buffer, converted to the element type.

use cuda_green::{GpuBuffer, GpuMemoryPool, sys::CUdeviceptr};

use super::kernel_set::Norm;
use crate::{
    error::{Error, Result},
    model::{BertConfig, BertWeights, LayerNorm, Linear, Tensor},
    precision::{Converted, InferencePrecision, PrecisionConvert},
};

/// The alignment of each tensor in bytes, which cuBLASLt's fastest kernels need.
const ALIGNMENT: usize = 256;

/// A product's weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceLinear {
    /// `[outputs, inputs]` in the element type.
    pub weight: CUdeviceptr,
    /// `[outputs]` in the element type, for cuBLASLt.
    pub bias: CUdeviceptr,
    /// The same in `f32`, for the crate's own kernels.
    pub float_bias: CUdeviceptr,
}

/// The constants of a norm that is folded into the product behind it, all for `[outputs]` but the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceFold {
    pub weight: CUdeviceptr,
    pub sums: CUdeviceptr,
    pub bias: CUdeviceptr,
}

/// The weights of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceLayer {
    /// Query, key and value in one product.
    pub qkv: DeviceLinear,
    /// The norm of the layer before, folded into it; none in the first layer.
    pub qkv_fold: Option<DeviceFold>,
    pub attention_output: DeviceLinear,
    pub attention_norm: Norm,
    pub intermediate: DeviceLinear,
    /// The attention's norm, folded into it.
    pub intermediate_fold: Option<DeviceFold>,
    pub output: DeviceLinear,
    pub output_norm: Norm,
}

/// A model's weights in device memory.
pub(super) struct DeviceWeights {
    pub words: CUdeviceptr,
    pub positions: CUdeviceptr,
    pub types: CUdeviceptr,
    pub embedding_norm: Norm,
    pub layers: Vec<DeviceLayer>,
    /// Owns the memory of all.
    buffer: GpuBuffer,
}

impl DeviceWeights {
    /// Converts the weights and copies them to the device.
    pub(super) fn load(
        pool: &GpuMemoryPool,
        weights: &BertWeights,
        precision: InferencePrecision,
    ) -> Result<Self> {
        let mut image = Image::new(precision);
        let words = image.tensor(&weights.word_embeddings)?;
        let positions = image.tensor(&weights.position_embeddings)?;
        let types = image.tensor(&weights.token_type_embeddings)?;
        let embedding_norm = image.norm(&weights.embedding_norm)?;
        let mut layers: Vec<DeviceLayer> = Vec::with_capacity(weights.layers.len());
        let mut norm_before = None;
        for layer in &weights.layers {
            let (qkv, qkv_fold) = image.linear(
                &[&layer.query, &layer.key, &layer.value],
                norm_before.replace(&layer.output_norm),
            )?;
            let (attention_output, _) = image.linear(&[&layer.attention_output], None)?;
            let (intermediate, intermediate_fold) =
                image.linear(&[&layer.intermediate], Some(&layer.attention_norm))?;
            let (output, _) = image.linear(&[&layer.output], None)?;
            layers.push(DeviceLayer {
                qkv,
                qkv_fold,
                attention_output,
                attention_norm: image.norm(&layer.attention_norm)?,
                intermediate,
                intermediate_fold,
                output,
                output_norm: image.norm(&layer.output_norm)?,
            });
        }
        let buffer = pool.allocate(image.bytes.len())?;
        buffer.copy_from(&image.bytes)?;
        let mut loaded = Self {
            words,
            positions,
            types,
            embedding_norm,
            layers,
            buffer,
        };
        loaded.relocate();
        Ok(loaded)
    }

    /// Returns the bytes of device memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Turns offsets within the image into addresses.
    fn relocate(&mut self) {
        let base = self.buffer.address();
        let norm = |norm: &mut Norm| {
            norm.weight += base;
            norm.bias += base;
        };
        let linear = |linear: &mut DeviceLinear| {
            linear.weight += base;
            linear.bias += base;
            linear.float_bias += base;
        };
        let fold = |fold: &mut Option<DeviceFold>| {
            if let Some(fold) = fold {
                fold.weight += base;
                fold.sums += base;
                fold.bias += base;
            }
        };
        self.words += base;
        self.positions += base;
        self.types += base;
        norm(&mut self.embedding_norm);
        for layer in &mut self.layers {
            linear(&mut layer.qkv);
            fold(&mut layer.qkv_fold);
            linear(&mut layer.attention_output);
            norm(&mut layer.attention_norm);
            linear(&mut layer.intermediate);
            fold(&mut layer.intermediate_fold);
            linear(&mut layer.output);
            norm(&mut layer.output_norm);
        }
    }
}

/// Returns the bytes of device memory that the weights of a model of these sizes take.
pub(crate) fn weight_bytes(config: &BertConfig, precision: InferencePrecision) -> usize {
    const FLOAT: usize = size_of::<f32>();
    let (hidden, element) = (config.hidden_size, precision.bytes());
    let mut end: usize = 0;
    let mut push = |parts: &[usize]| {
        for bytes in parts {
            end = end.next_multiple_of(ALIGNMENT) + bytes;
        }
    };
    for rows in [config.vocabulary, config.positions, config.token_types] {
        push(&[rows * hidden * element]);
    }
    let norm = [hidden * FLOAT; 2];
    push(&norm);
    for layer in 0..config.layers {
        for (inputs, outputs, is_folded) in [
            (hidden, 3 * hidden, layer > 0),
            (hidden, hidden, false),
            (hidden, config.intermediate_size, true),
            (config.intermediate_size, hidden, false),
        ] {
            let bias = outputs * FLOAT;
            push(&[inputs * outputs * element, outputs * element, bias]);
            if is_folded && precision != InferencePrecision::FP32 {
                push(&[inputs * element, bias, bias]);
            }
        }
        push(&norm);
        push(&norm);
    }
    end
}

/// The bytes of all weights, in the order in which they were added. Addresses are offsets within it.
struct Image {
    precision: InferencePrecision,
    bytes: Vec<u8>,
}

impl Image {
    fn new(precision: InferencePrecision) -> Self {
        Self {
            precision,
            bytes: Vec::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> CUdeviceptr {
        let start = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(bytes);
        start as CUdeviceptr
    }

    fn floats(&mut self, values: &[f32]) -> CUdeviceptr {
        self.push(bytemuck::cast_slice(values))
    }

    fn tensor(&mut self, tensor: &Tensor) -> Result<CUdeviceptr> {
        let converted = convert(tensor.name(), &tensor.to_f32(), self.precision)?;
        Ok(self.push(converted.as_bytes()))
    }

    /// Adds a norm, in `f32` whatever the element type.
    fn norm(&mut self, norm: &LayerNorm) -> Result<Norm> {
        let mut add = |tensor: &Tensor| {
            let exact = convert(tensor.name(), &tensor.to_f32(), InferencePrecision::FP32)?;
            Ok::<_, Error>(self.push(exact.as_bytes()))
        };
        Ok(Norm {
            weight: add(&norm.weight)?,
            bias: add(&norm.bias)?,
        })
    }

    /// Adds products of the same inputs as one, whose outputs are theirs one after another, and the norm in front of it
    /// folded into it. In `f32` no norm is folded: there is no product for few tokens.
    fn linear(
        &mut self,
        parts: &[&Linear],
        norm: Option<&LayerNorm>,
    ) -> Result<(DeviceLinear, Option<DeviceFold>)> {
        let name = parts.first().map_or("", |part| part.weight.name());
        let weight: Vec<f32> = parts.iter().flat_map(|part| part.weight.to_f32()).collect();
        let bias: Vec<f32> = parts.iter().flat_map(|part| part.bias.to_f32()).collect();
        let weight = convert(name, &weight, self.precision)?;
        let rounded_bias = convert(name, &bias, self.precision)?;
        let linear = DeviceLinear {
            weight: self.push(weight.as_bytes()),
            bias: self.push(rounded_bias.as_bytes()),
            float_bias: self.floats(&bias),
        };
        let fold = match norm {
            Some(norm) if self.precision != InferencePrecision::FP32 => {
                Some(self.fold(&weight, &bias, norm)?)
            }
            _ => None,
        };
        Ok((linear, fold))
    }

    fn fold(&mut self, weight: &Converted, bias: &[f32], norm: &LayerNorm) -> Result<DeviceFold> {
        let scale = convert(norm.weight.name(), &norm.weight.to_f32(), self.precision)?;
        let shift = norm.bias.to_f32();
        // The kernel multiplies rounded weights by the rounded scale, so the sums are of these.
        let (rounded_weight, rounded_scale) = (weight.to_f32(), scale.to_f32());
        let rows = || rounded_weight.chunks_exact(scale.len().max(1));
        let dot = |row: &[f32], with: &[f32]| -> f64 {
            let products = row
                .iter()
                .zip(with)
                .map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        let sums: Vec<f32> = rows().map(|row| dot(row, &rounded_scale) as f32).collect();
        let shifted = rows()
            .zip(bias)
            .map(|(row, bias)| (dot(row, &shift) + f64::from(*bias)) as f32);
        let shifted: Vec<f32> = shifted.collect();
        Ok(DeviceFold {
            weight: self.push(scale.as_bytes()),
            sums: self.floats(&sums),
            bias: self.floats(&shifted),
        })
    }
}

/// Converts a tensor's values; the error names the tensor.
fn convert(name: &str, values: &[f32], precision: InferencePrecision) -> Result<Converted> {
    values
        .to_precision(precision)
        .map_err(|error| Error::Weight {
            tensor: name.to_owned(),
            error: Box::new(error),
        })
}

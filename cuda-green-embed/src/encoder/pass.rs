//! One pass of the model over a batch, as the launches that a graph captures.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use cuda_green::{GpuBuffer, Stream, sys::CUdeviceptr};

use super::{
    bert_model::BertModel,
    device_weights::{DeviceFold, DeviceLayer, DeviceLinear},
    kernel_set::{FewProduct, FoldedNorm, PassShape, ROWS, Residual},
    slots::{Slot, facts_words},
};
use crate::{
    cublaslt::{Product, ProductShape},
    error::Result,
    lock::lock,
    model::{BertConfig, Pooling},
    precision::InferencePrecision,
};

/// The bytes of cuBLASLt's workspace: what NVIDIA recommends for its kernels on compute capability 9.0.
const WORKSPACE: usize = 32 << 20;
/// The most tokens of a batch whose products are those for few tokens. With more, cuBLASLt is faster (measured on an
/// H200, whole and in 32 SMs).
const FEW: u32 = 64;

/// The device memory that the passes of one encoder share. They run one after another.
pub(super) struct Activations {
    /// The rows of a layer's input and output.
    a: CUdeviceptr,
    /// The rows of attention's output.
    b: CUdeviceptr,
    /// The rows between attention and the feed-forward part.
    c: CUdeviceptr,
    /// Queries, keys and values; later the feed-forward part's.
    wide: CUdeviceptr,
    a_moments: CUdeviceptr,
    c_moments: CUdeviceptr,
    facts: CUdeviceptr,
    workspace: CUdeviceptr,
    /// The most tokens of a batch, in whole tiles.
    pub capacity: u32,
    buffer: GpuBuffer,
}

impl Activations {
    pub(super) fn new(model: &BertModel, capacity: u32) -> Result<Self> {
        let (offsets, bytes) = layout(model.config(), model.precision(), capacity);
        let buffer = model.pool().allocate(bytes)?;
        // Rows past the last token are computed, too, and should be numbers.
        buffer.fill(0)?;
        let [a, b, c, wide, a_moments, c_moments, facts, workspace] =
            offsets.map(|offset| buffer.address() + offset);
        Ok(Self {
            a,
            b,
            c,
            wide,
            a_moments,
            c_moments,
            facts,
            workspace,
            capacity,
            buffer,
        })
    }

    /// Returns the bytes of device memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }
}

/// Returns the offsets of the parts of an encoder's activations, in the order of the fields, and the bytes of all.
fn layout(
    config: &BertConfig,
    precision: InferencePrecision,
    capacity: u32,
) -> ([CUdeviceptr; 8], usize) {
    let rows = capacity as usize;
    let element = precision.bytes();
    let narrow = rows * config.hidden_size * element;
    let wide = rows * element * config.intermediate_size.max(3 * config.hidden_size);
    let (moments, facts) = (rows * 8, facts_words(rows) * 4);
    let mut end = 0;
    let offsets = [
        narrow, narrow, narrow, wide, moments, moments, facts, WORKSPACE,
    ]
    .map(|bytes| {
        let start = end;
        end += bytes.next_multiple_of(256);
        start as CUdeviceptr
    });
    (offsets, end)
}

/// Returns the bytes of device memory that the activations of an encoder for batches of up to so many tokens take.
pub(crate) fn activation_bytes(
    config: &BertConfig,
    precision: InferencePrecision,
    tokens: u32,
) -> usize {
    layout(config, precision, capacity_for(tokens)).1
}

/// The products of a layer by cuBLASLt: queries, keys and values; attention's output; both of the feed-forward part.
type Products = [Product; 4];

/// The operands of one of them.
#[derive(Clone, Copy)]
struct Operands<'a> {
    linear: &'a DeviceLinear,
    rows: CUdeviceptr,
    residual: CUdeviceptr,
    out: CUdeviceptr,
}

/// The products of one size of batch, by the number of SMs that they were chosen for.
#[derive(Default)]
pub(super) struct ProductsBySms(Mutex<HashMap<u32, Arc<Products>>>);

/// One pass over a batch of up to `bucket` tokens in a slot.
pub(super) struct Pass {
    model: BertModel,
    activations: Arc<Activations>,
    slot: Arc<Slot>,
    shape: PassShape,
    products: Arc<ProductsBySms>,
}

impl Pass {
    pub(super) fn new(
        model: &BertModel,
        activations: &Arc<Activations>,
        slot: &Arc<Slot>,
        products: &Arc<ProductsBySms>,
        (bucket, texts): (u32, u32),
    ) -> Self {
        Self {
            shape: PassShape {
                bucket,
                texts,
                input: slot.input_address,
                facts: activations.facts,
                capacity: activations.capacity,
                hidden: model.config().hidden_size as u32,
                heads: model.config().heads as u32,
                epsilon: model.config().layer_norm_eps,
            },
            model: model.clone(),
            activations: Arc::clone(activations),
            slot: Arc::clone(slot),
            products: Arc::clone(products),
        }
    }

    /// Puts the pass into a stream, for the batch that the slot has when the work runs. The stream's context is current.
    ///
    /// # Safety
    /// The pass lives until the stream has done the work, and other passes of its encoder are in streams that are
    /// ordered with this one.
    pub(super) unsafe fn run(&self, stream: &Stream) -> Result<()> {
        // SAFETY: the addresses are those of the weights and the activations, which have the sizes that the kernels
        // expect, and live as the caller promises.
        unsafe {
            self.embed(stream)?;
            if self.is_of_few() {
                self.layers_of_few(stream)?;
            } else {
                self.layers_of_many(stream)?;
            }
            self.pool(stream)
        }
    }

    /// Returns whether the products are those for few tokens.
    fn is_of_few(&self) -> bool {
        let kernels = &self.model.inner.kernels;
        let hidden = self.model.config().hidden_size as u32;
        let intermediate = self.model.config().intermediate_size as u32;
        self.shape.bucket <= FEW
            && kernels.has_few(hidden, hidden)
            && kernels.has_few(hidden, 3 * hidden)
            && kernels.has_few(hidden, intermediate)
            && kernels.has_few(intermediate, hidden)
    }

    /// # Safety
    /// As [`run`](Self::run), and so for the other parts of a pass.
    unsafe fn embed(&self, stream: &Stream) -> Result<()> {
        let (model, act) = (&self.model.inner, &self.activations);
        let weights = &model.weights;
        // SAFETY: the caller's promise.
        unsafe {
            model.kernels.embed(
                stream,
                &self.shape,
                [weights.words, weights.positions, weights.types],
                weights.embedding_norm,
                act.a,
            )
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn attention(&self, stream: &Stream) -> Result<()> {
        let (model, act) = (&self.model.inner, &self.activations);
        // SAFETY: the caller's promise.
        unsafe {
            model
                .kernels
                .attention(stream, &self.shape, act.wide, act.b)
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn pool(&self, stream: &Stream) -> Result<()> {
        let (model, act) = (&self.model.inner, &self.activations);
        let Some(last) = model.weights.layers.last() else {
            return Ok(());
        };
        // SAFETY: the caller's promise.
        unsafe {
            model.kernels.pool(
                stream,
                &self.shape,
                act.a,
                last.output_norm,
                (model.pooling == Pooling::Cls, model.normalize),
                self.slot.output_address,
            )
        }
    }

    /// Runs the layers with norms, bias, GELU and residual fused into the products. Rows are normalised where they are
    /// read, so the last layer leaves them to be normalised.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn layers_of_few(&self, stream: &Stream) -> Result<()> {
        let (model, act) = (&self.model.inner, &self.activations);
        let hidden = self.shape.hidden;
        let intermediate = model.config.intermediate_size as u32;
        let product = |linear: &DeviceLinear, rows, inputs, outputs, out| FewProduct {
            rows,
            norm: None,
            weight: linear.weight,
            bias: linear.float_bias,
            residual: None,
            gelu: false,
            inputs,
            outputs,
            out,
        };
        let folded = |fold: Option<DeviceFold>, moments| {
            fold.map(|DeviceFold { weight, sums, bias }| FoldedNorm {
                weight,
                sums,
                bias,
                moments,
            })
        };
        let run = |product: FewProduct| {
            // SAFETY: the caller's promise.
            unsafe { model.kernels.few(stream, &self.shape, &product) }
        };
        let mut before: Option<&DeviceLayer> = None;
        for layer in &model.weights.layers {
            run(FewProduct {
                norm: folded(layer.qkv_fold, act.a_moments),
                ..product(&layer.qkv, act.a, hidden, 3 * hidden, act.wide)
            })?;
            // SAFETY: the caller's promise.
            unsafe { self.attention(stream)? };
            run(FewProduct {
                residual: Some(Residual {
                    rows: act.a,
                    norm: before.map(|before| (before.output_norm, act.a_moments)),
                }),
                ..product(&layer.attention_output, act.b, hidden, hidden, act.c)
            })?;
            run(FewProduct {
                norm: folded(layer.intermediate_fold, act.c_moments),
                gelu: true,
                ..product(&layer.intermediate, act.c, hidden, intermediate, act.wide)
            })?;
            run(FewProduct {
                residual: Some(Residual {
                    rows: act.c,
                    norm: Some((layer.attention_norm, act.c_moments)),
                }),
                ..product(&layer.output, act.wide, intermediate, hidden, act.a)
            })?;
            before = Some(layer);
        }
        Ok(())
    }

    /// Runs the layers with products by cuBLASLt. The last layer's rows are left to be normalised.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn layers_of_many(&self, stream: &Stream) -> Result<()> {
        let (model, act) = (&self.model.inner, &self.activations);
        let (kernels, shape) = (&model.kernels, &self.shape);
        let intermediate = model.config.intermediate_size as u32;
        let products = self.products(stream.context().sm_count())?;
        // SAFETY: the caller's promise.
        let run = |product, operands| unsafe { self.launch(stream, product, operands) };
        for (index, layer) in model.weights.layers.iter().enumerate() {
            let [qkv, attention_output, wide, output] = self.operands(layer);
            run(&products[0], qkv)?;
            // SAFETY: the caller's promise.
            unsafe { self.attention(stream)? };
            run(&products[1], attention_output)?;
            // SAFETY: the caller's promise.
            unsafe {
                kernels.layer_norm(stream, shape, act.c, layer.attention_norm)?;
            }
            run(&products[2], wide)?;
            let bias = layer.intermediate.float_bias;
            // SAFETY: the caller's promise.
            unsafe {
                kernels.bias_gelu(stream, shape, act.wide, bias, intermediate)?;
            }
            run(&products[3], output)?;
            if index + 1 < model.weights.layers.len() {
                // SAFETY: the caller's promise.
                unsafe {
                    kernels.layer_norm(stream, shape, act.a, layer.output_norm)?;
                }
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn launch(
        &self,
        stream: &Stream,
        product: &Product,
        operands: Operands<'_>,
    ) -> Result<()> {
        let Operands {
            linear,
            rows,
            residual,
            out,
        } = operands;
        let (weight, bias) = (linear.weight, linear.bias);
        let workspace = self.activations.workspace;
        // SAFETY: the matrices have the product's shape, and live as the caller promises.
        unsafe { product.launch(stream, rows, weight, bias, residual, out, workspace) }
    }

    /// Returns the operands of a layer's products.
    fn operands<'a>(&self, layer: &'a DeviceLayer) -> [Operands<'a>; 4] {
        let act = &self.activations;
        let operands = |linear, rows, residual, out| Operands {
            linear,
            rows,
            residual,
            out,
        };
        [
            operands(&layer.qkv, act.a, 0, act.wide),
            operands(&layer.attention_output, act.b, act.a, act.c),
            operands(&layer.intermediate, act.c, 0, act.wide),
            operands(&layer.output, act.wide, act.c, act.a),
        ]
    }

    /// Returns the shapes of a layer's products.
    fn shapes(&self) -> [ProductShape; 4] {
        let config = self.model.config();
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let shape = |inputs, outputs, with_bias, with_residual| ProductShape {
            rows: self.shape.bucket as usize,
            inputs,
            outputs,
            precision: self.model.precision(),
            with_bias,
            with_residual,
        };
        [
            shape(hidden, 3 * hidden, true, false),
            shape(hidden, hidden, true, true),
            shape(hidden, intermediate, false, false),
            shape(intermediate, hidden, true, true),
        ]
    }

    /// Chooses the products for the SMs of the stream's context, unless that was done.
    ///
    /// # Safety
    /// As [`run`](Self::run), and no other pass of the encoder is on its way.
    pub(super) unsafe fn choose_products(&self, stream: &Stream) -> Result<()> {
        let sms = stream.context().sm_count();
        let mut chosen = lock(&self.products.0);
        let Some(layer) = self.model.inner.weights.layers.first() else {
            return Ok(());
        };
        if self.is_of_few() || chosen.contains_key(&sms) {
            return Ok(());
        }
        let cublaslt = &self.model.inner.cublaslt;
        let choose = |shape, operands| {
            cublaslt.product_on(stream, shape, WORKSPACE, |product| {
                // SAFETY: the caller's promise.
                unsafe { self.launch(stream, product, operands) }
            })
        };
        let [a, b, c, d] = self.operands(layer);
        let [of_a, of_b, of_c, of_d] = self.shapes();
        let products = [
            choose(of_a, a)?,
            choose(of_b, b)?,
            choose(of_c, c)?,
            choose(of_d, d)?,
        ];
        chosen.insert(sms, Arc::new(products));
        Ok(())
    }

    /// Returns the products that were chosen for a number of SMs. If none were, since a graph is captured for a context in
    /// which nothing has run yet, returns cuBLASLt's first choice.
    fn products(&self, sms: u32) -> Result<Arc<Products>> {
        if let Some(products) = lock(&self.products.0).get(&sms) {
            return Ok(Arc::clone(products));
        }
        let cublaslt = &self.model.inner.cublaslt;
        let product = |shape| cublaslt.product(shape, WORKSPACE, Some(sms));
        let [a, b, c, d] = self.shapes();
        Ok(Arc::new([
            product(a)?,
            product(b)?,
            product(c)?,
            product(d)?,
        ]))
    }
}

/// Returns the capacity for batches of up to so many tokens: whole tiles.
pub(super) fn capacity_for(tokens: u32) -> u32 {
    tokens.next_multiple_of(ROWS)
}

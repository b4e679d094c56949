//! A load like that of a training step, without a framework.
//!
//! For each layer of a BERT of these sizes, and a batch of so many tokens, a step has: forward, the layer's four products
//! (queries, keys and values in one; attention's output; the two of the feed-forward part), each followed by an
//! element-wise kernel over its output; backward, for each of them the product that gives the gradient of its input and
//! the one that gives the gradient of its weights, and an element-wise kernel over the former; at the end, an element-wise
//! kernel over the layer's weights, as an optimiser's. The products inside attention, embeddings and the loss are left out:
//! less than a tenth of the arithmetic. The numbers mean nothing, and no launch uses another's results.

use cuda_green::Stream;
use cuda_green_embed::Product;

use super::gpu::{Launch, Sources};

/// Name of the kernel `(from: *const f32, to: *mut f32, vectors: u32)`, of which each thread reads 16 bytes of both,
/// multiplies and adds, and writes the second.
pub const MIX: &str = "cuda_green_bench_mix";

/// Its source.
pub const PTX: &str = include_str!("mix.ptx");

#[derive(Clone, Copy)]
pub struct Sizes {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    tokens: usize,
}

/// BERT-base with 32 texts of 128 tokens.
pub const BERT_BASE: Sizes = Sizes {
    layers: 12,
    hidden: 768,
    intermediate: 3072,
    tokens: 32 * 128,
};

pub const SIMULATED: Sizes = Sizes {
    layers: 1,
    hidden: 16,
    intermediate: 32,
    tokens: 16,
};

impl Sizes {
    /// Returns the inputs and outputs of a layer's products.
    fn products(self) -> [(usize, usize); 4] {
        let (hidden, intermediate) = (self.hidden, self.intermediate);
        [
            (hidden, 3 * hidden),
            (hidden, hidden),
            (hidden, intermediate),
            (intermediate, hidden),
        ]
    }

    fn weights(self) -> usize {
        self.products()
            .iter()
            .map(|(inputs, outputs)| inputs * outputs)
            .sum()
    }

    /// Returns the bytes that any launch of a step finds room in: twice those of the largest operands.
    pub fn ring_bytes(self) -> usize {
        let widest = self.intermediate.max(3 * self.hidden);
        let largest = (self.tokens * widest).max(self.weights());
        4 * largest * size_of::<u16>()
    }

    pub fn describe(self) -> String {
        let Self {
            layers,
            hidden,
            intermediate,
            tokens,
        } = self;
        format!(
            "{layers} layers of {hidden} and {intermediate}, {tokens} tokens, in bf16: the products forward and backward, and element-wise kernels"
        )
    }
}

/// The products of one layer, which all layers use in turn on other memory.
pub struct Step {
    sizes: Sizes,
    products: Vec<Products>,
}

/// A product of a layer, and the two of its gradients.
struct Products {
    forward: Product,
    of_input: Product,
    of_weights: Product,
}

impl Step {
    pub fn new(sources: &Sources, stream: &Stream, sizes: Sizes) -> anyhow::Result<Self> {
        let tokens = sizes.tokens;
        let products = sizes.products().into_iter().map(|(inputs, outputs)| {
            Ok(Products {
                forward: sources.product(stream, tokens, inputs, outputs)?,
                of_input: sources.product(stream, tokens, outputs, inputs)?,
                of_weights: sources.product(stream, outputs, tokens, inputs)?,
            })
        });
        Ok(Self {
            sizes,
            products: products.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Launches all of a step.
    pub fn launch(&self, launch: &mut Launch<'_>) -> anyhow::Result<()> {
        for _ in 0..self.sizes.layers {
            for products in &self.products {
                launch.product(&products.forward)?;
                launch.element_wise(values(&products.forward))?;
            }
        }
        for _ in 0..self.sizes.layers {
            for products in self.products.iter().rev() {
                launch.product(&products.of_input)?;
                launch.product(&products.of_weights)?;
                launch.element_wise(values(&products.of_input))?;
            }
            launch.element_wise(self.sizes.weights())?;
        }
        Ok(())
    }
}

/// Returns the values in a product's output.
fn values(product: &Product) -> usize {
    product.shape().rows * product.shape().outputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_the_arithmetic_of_its_model() {
        // Each product, and the two of its gradients: 2 operations for each weight and token, three times.
        let flop = |sizes: Sizes| 2 * 3 * sizes.layers * sizes.weights() * sizes.tokens;
        assert_eq!(flop(BERT_BASE), 2_087_354_105_856);
    }

    #[test]
    fn every_launch_finds_room() {
        for sizes in [BERT_BASE, SIMULATED] {
            let most = sizes.products().map(|(inputs, outputs)| {
                let tokens = sizes.tokens;
                let [forward, of_input] = [tokens * inputs, tokens * outputs];
                (forward + inputs * outputs)
                    .max(of_input + inputs * outputs)
                    .max(forward + of_input)
            });
            let most = most
                .into_iter()
                .max()
                .unwrap_or_default()
                .max(sizes.weights());
            assert!(most * size_of::<u16>() <= sizes.ring_bytes());
        }
    }
}

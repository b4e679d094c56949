//! Random weights, so that tests and benchmarks run true shapes without a file.

use std::convert::Infallible;

use super::{config::BertConfig, tensor::Tensor, weights::BertWeights};

impl BertWeights {
    /// Makes weights of a model's true shapes: the same for the same seed, of a size that keeps the states of all layers
    /// within the range of trained models.
    pub fn random(config: &BertConfig, seed: u64) -> Self {
        let mut numbers = SplitMix64(seed);
        let built = Self::build(config, |name, shape| {
            let length = shape.iter().product();
            // A product with `n` random values of variance 1/n keeps the variance of its input.
            let (mean, deviation) = match shape {
                [_] if name.ends_with("LayerNorm.weight") => (1.0, 0.1),
                [_] => (0.0, 0.02),
                _ if name.starts_with("embeddings.") => (0.0, 0.05),
                [.., inputs] => (0.0, (*inputs as f32).sqrt().recip()),
                [] => (0.0, 0.0),
            };
            // Uniform values within ±√3 have deviation 1.
            let scale = deviation * 3f32.sqrt();
            let values: Vec<f32> = (0..length)
                .map(|_| mean + scale * numbers.next_signed())
                .collect();
            Ok::<_, Infallible>(Tensor::owned(name.to_owned(), shape.to_vec(), &values))
        });
        match built {
            Ok(weights) => weights,
        }
    }
}

/// Steele, Lea and Flood's generator: an add and a mix.
struct SplitMix64(u64);

impl SplitMix64 {
    /// Returns a number from -1 to 1.
    fn next_signed(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The upper 24 bits, which an `f32` holds exactly.
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

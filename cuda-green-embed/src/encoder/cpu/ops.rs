//! The operations of the reference.

use crate::model::{LayerNorm, Linear};

/// The outputs that are computed side by side.
const LANES: usize = 16;

/// A matrix product and a sum.
#[derive(Debug)]
pub(super) struct Dense {
    /// For each `LANES` outputs, for each input, the weights of these outputs; zeros where there are fewer.
    panels: Vec<[f32; LANES]>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Dense {
    pub(super) fn new(linear: &Linear) -> Self {
        let (weight, bias) = (linear.weight.to_f32(), linear.bias.to_f32());
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len().max(1));
        let mut panels = vec![[0.0; LANES]; outputs.div_ceil(LANES) * inputs];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            let panel = &mut panels[output / LANES * inputs..][..inputs];
            for (lanes, value) in panel.iter_mut().zip(row) {
                lanes[output % LANES] = *value;
            }
        }
        Self {
            panels,
            bias,
            inputs,
        }
    }

    pub(super) fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Returns `states · weightᵀ + bias`.
    pub(super) fn apply(&self, states: &[f32]) -> Vec<f32> {
        let (inputs, outputs) = (self.inputs, self.outputs());
        let mut results = vec![0.0; states.len() / inputs * outputs];
        let panels = self.panels.chunks_exact(inputs);
        let biases = self.bias.chunks(LANES);
        for (index, (panel, bias)) in panels.zip(biases).enumerate() {
            let mut write = |token: usize, sums: [f32; LANES]| {
                let result = &mut results[token * outputs + index * LANES..];
                for ((result, sum), bias) in result.iter_mut().zip(sums).zip(bias) {
                    *result = sum + bias;
                }
            };
            // Four tokens at a time, for each weight that is read.
            let fours = states.chunks_exact(4 * inputs);
            let rest = fours.remainder().chunks_exact(inputs);
            let done = states.len() / inputs / 4 * 4;
            for (four, states) in fours.enumerate() {
                for (token, sums) in products::<4>(states, panel).into_iter().enumerate() {
                    write(4 * four + token, sums);
                }
            }
            for (token, state) in rest.enumerate() {
                let [sums] = products::<1>(state, panel);
                write(done + token, sums);
            }
        }
        results
    }
}

/// Returns the products of some tokens' states with a panel of weights.
fn products<const TOKENS: usize>(states: &[f32], panel: &[[f32; LANES]]) -> [[f32; LANES]; TOKENS] {
    let mut sums = [[0.0; LANES]; TOKENS];
    let inputs = panel.len();
    let states: [&[f32]; TOKENS] = std::array::from_fn(|token| &states[token * inputs..][..inputs]);
    for (input, weights) in panel.iter().enumerate() {
        for (sums, state) in sums.iter_mut().zip(states) {
            let value = state[input];
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
    }
    sums
}

/// A layer normalisation.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f64,
}

impl Norm {
    pub(super) fn new(norm: &LayerNorm, epsilon: f32) -> Self {
        Self {
            weight: norm.weight.to_f32(),
            bias: norm.bias.to_f32(),
            epsilon: epsilon.into(),
        }
    }

    /// Normalises each token's state.
    pub(super) fn apply(&self, states: &mut [f32]) {
        let size = self.weight.len();
        for state in states.chunks_exact_mut(size) {
            let mean = state.iter().map(|value| f64::from(*value)).sum::<f64>() / size as f64;
            let squares = state.iter().map(|value| (f64::from(*value) - mean).powi(2));
            let scale = (squares.sum::<f64>() / size as f64 + self.epsilon)
                .sqrt()
                .recip();
            let parameters = self.weight.iter().zip(&self.bias);
            for (value, (weight, bias)) in state.iter_mut().zip(parameters) {
                *value = ((f64::from(*value) - mean) * scale) as f32 * weight + bias;
            }
        }
    }
}

/// Returns the exact GELU, by the error function.
pub(super) fn gelu(value: f32) -> f32 {
    0.5 * value * (1.0 + libm::erff(value * std::f32::consts::FRAC_1_SQRT_2))
}

/// Adds values to others.
pub(super) fn add(values: &mut [f32], others: &[f32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value += other;
    }
}

/// Returns the attention's results: for each token, text and head, the mean of the text's values, weighted by the softmax
/// of `query · key / √head_size`.
pub(super) fn attention(
    query: &[f32],
    key: &[f32],
    value: &[f32],
    lengths: &[usize],
    hidden: usize,
    head_size: usize,
) -> Vec<f32> {
    let scale = (head_size as f32).sqrt().recip();
    let mut results = vec![0.0; query.len()];
    let mut start = 0;
    for length in lengths {
        let tokens = start..start + length;
        start = tokens.end;
        for head in (0..hidden).step_by(head_size) {
            let part = |token: usize| token * hidden + head..token * hidden + head + head_size;
            for token in tokens.clone() {
                let query = &query[part(token)];
                let mut weights: Vec<f32> = tokens
                    .clone()
                    .map(|other| dot(query, &key[part(other)]) * scale)
                    .collect();
                softmax(&mut weights);
                let result = &mut results[part(token)];
                for (other, weight) in tokens.clone().zip(weights) {
                    for (result, value) in result.iter_mut().zip(&value[part(other)]) {
                        *result += weight * value;
                    }
                }
            }
        }
    }
    results
}

/// Returns the scalar product, summed in eight lanes.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (left, right) in left.chunks(8).zip(right.chunks(8)) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    sums.iter().sum()
}

/// Turns values into weights whose sum is 1, each in proportion to its exponential.
fn softmax(values: &mut [f32]) {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in values.iter_mut() {
        *value = (*value - largest).exp();
    }
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
}

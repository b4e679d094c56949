//! Each kernel's body on the host against the formula that `bert.cu` states, in `f64`.

use cuda_green::{GpuBuffer, KernelArg, LaunchConfig, Module, sys::CUdeviceptr};
use cuda_green_embed::InferencePrecision;
use proptest::prelude::*;

use crate::gpu::{Gpu, Numbers, PRECISIONS, assert_close, epsilon};

const EPSILON: f32 = 1e-5;
const FLOATS: InferencePrecision = InferencePrecision::FP32;
/// Fills what no kernel should have written.
const UNTOUCHED: f32 = 77.0;

/// The kernels' text for a precision: of compute capability 8.0 or 9.0.
fn ptx(precision: InferencePrecision, newer: bool) -> &'static str {
    macro_rules! texts {
        ($name:literal) => {
            [
                include_str!(concat!("../../src/kernels/bert_", $name, "_sm80.ptx")),
                include_str!(concat!("../../src/kernels/bert_", $name, "_sm90.ptx")),
            ]
        };
    }
    let texts = match precision {
        InferencePrecision::FP16 => texts!("f16"),
        InferencePrecision::BF16 => texts!("bf16"),
        _ => texts!("f32"),
    };
    texts[usize::from(newer)]
}

/// A GPU with the kernels of a precision.
struct Kernels {
    module: Module,
    gpu: Gpu,
    precision: InferencePrecision,
    numbers: Numbers,
}

impl Kernels {
    fn new(precision: InferencePrecision, seed: u64) -> Self {
        let gpu = Gpu::new();
        let module = Module::load_ptx(&gpu.device, ptx(precision, seed % 2 == 1)).unwrap();
        Self {
            gpu,
            module,
            precision,
            numbers: Numbers(seed),
        }
    }

    fn launch(&self, name: &str, config: LaunchConfig, args: &[&dyn KernelArg]) {
        let name = format!("cuda_green_{name}_{}", self.precision.name());
        let kernel = self.module.kernel(&name).unwrap();
        // SAFETY: each test passes the kernel's parameters, and keeps what they point to until it has read the result.
        unsafe { self.gpu.stream.launch(&kernel, &config, args) }.unwrap();
    }

    /// Makes random elements, as numbers and in memory.
    fn random(&mut self, count: usize) -> (Vec<f32>, GpuBuffer) {
        let values = self.numbers.take(count, self.precision);
        let buffer = self.gpu.put(self.precision, &values);
        (values, buffer)
    }

    /// Makes random floats, whatever the precision.
    fn floats(&mut self, count: usize) -> (Vec<f32>, GpuBuffer) {
        let values = self.numbers.take(count, FLOATS);
        let buffer = self.gpu.put(FLOATS, &values);
        (values, buffer)
    }

    fn untouched(&self, count: usize) -> GpuBuffer {
        self.gpu.put(self.precision, &vec![UNTOUCHED; count])
    }

    fn get(&self, buffer: &GpuBuffer) -> Vec<f32> {
        self.gpu.get(self.precision, buffer)
    }

    /// Fails unless these rows are as expected, and all others untouched.
    #[track_caller]
    fn check_rows(&self, got: &[f32], expected: &[Vec<f64>], width: usize, scale: f64) {
        let (written, rest) = got.split_at(expected.len() * width);
        assert_close(self.precision, written, &expected.concat(), scale);
        assert!(
            rest.iter().all(|v| *v == UNTOUCHED),
            "rows past the last are written"
        );
    }
}

/// A packed batch: the lengths of its texts, in blocks for so many tokens.
#[derive(Clone, Debug)]
struct Batch {
    lengths: Vec<usize>,
    capacity: usize,
}

impl Batch {
    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn starts(&self) -> Vec<usize> {
        let mut starts = vec![0];
        for length in &self.lengths {
            starts.push(starts[starts.len() - 1] + length);
        }
        starts
    }

    /// Returns the first token of each token's text, and the end.
    fn bounds(&self) -> Vec<(usize, usize)> {
        let starts = self.starts();
        let texts = starts.windows(2);
        texts
            .flat_map(|text| (text[0]..text[1]).map(|_| (text[0], text[1])))
            .collect()
    }

    /// Returns the block of facts. What the batch does not fill has `rest`.
    fn facts(&self, rest: u32) -> Vec<u32> {
        let mut words = vec![self.tokens() as u32, self.lengths.len() as u32, 0, 0];
        let mut list = |values: Vec<usize>, len: usize| {
            let mut values: Vec<u32> = values.iter().map(|v| *v as u32).collect();
            values.resize(len, rest);
            words.extend(values);
        };
        list(
            self.bounds().iter().map(|bounds| bounds.0).collect(),
            self.capacity,
        );
        list(
            self.bounds().iter().map(|bounds| bounds.1).collect(),
            self.capacity,
        );
        list(self.starts(), self.capacity + 1);
        words
    }

    /// Returns the block that the host writes.
    fn input(&self, ids: &[u32], rest: u32) -> Vec<u32> {
        let facts = self.facts(rest);
        let mut words = facts[..4].to_vec();
        words.extend(ids);
        words.resize(4 + self.capacity, rest);
        words.extend(&facts[4..]);
        words
    }
}

fn batches() -> impl Strategy<Value = Batch> {
    (prop::collection::vec(1..40_usize, 1..8), 0..2_usize).prop_map(|(lengths, more)| {
        let tokens: usize = lengths.iter().sum();
        let capacity = tokens.next_multiple_of(64) + more * 64;
        Batch { lengths, capacity }
    })
}

fn precisions() -> impl Strategy<Value = InferencePrecision> {
    prop::sample::select(PRECISIONS.to_vec())
}

fn halves() -> impl Strategy<Value = InferencePrecision> {
    prop::sample::select(PRECISIONS[1..].to_vec())
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn normalised(row: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    let deviation = (variance + f64::from(EPSILON)).sqrt();
    let scaled = row.iter().zip(weight).zip(bias);
    scaled
        .map(|((v, w), b)| (v - mean) / deviation * f64::from(*w) + f64::from(*b))
        .collect()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / 2_f64.sqrt()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn embeddings_are_summed_and_normalised_and_the_facts_copied(
        batch in batches(), precision in precisions(), seed: u64, hidden in 1..70_u32, fewer in 0..3_u32,
    ) {
        let mut k = Kernels::new(precision, seed);
        let hidden = hidden * 4;
        let width = hidden as usize;
        let (words, words_at) = k.random(50 * width);
        let (positions, positions_at) = k.random(40 * width);
        let (types, types_at) = k.random(width);
        let (weight, weight_at) = k.floats(width);
        let (bias, bias_at) = k.floats(width);
        let ids: Vec<u32> = (0..batch.tokens()).map(|_| (k.numbers.next().abs() * 49.0) as u32).collect();
        let input = k.gpu.put_words(&batch.input(&ids, 123));
        let facts = k.gpu.put_words(&vec![55; 4 + 3 * batch.capacity + 1]);
        let out = k.untouched(batch.capacity * width);
        let blocks = (batch.tokens().next_multiple_of(64) as u32 / 32).saturating_sub(fewer).max(1);
        k.launch("embed", LaunchConfig::linear(blocks, 256), &[
            &input.address(), &facts.address(), &(batch.capacity as u32), &words_at.address(),
            &positions_at.address(), &types_at.address(), &weight_at.address(), &bias_at.address(), &EPSILON,
            &hidden, &out.address(),
        ]);

        let covered = (blocks as usize * 32).min(batch.tokens());
        let bounds = batch.bounds();
        let mut expected = Vec::new();
        for token in 0..covered {
            let row = |table: &[f32], index: usize| wide(&table[index * width..(index + 1) * width]);
            let (a, b, c) = (row(&words, ids[token] as usize), row(&positions, token - bounds[token].0), row(&types, 0));
            let sum: Vec<f64> = (0..width).map(|i| a[i] + b[i] + c[i]).collect();
            expected.push(normalised(&sum, &weight, &bias));
        }
        k.check_rows(&k.get(&out), &expected, width, 1.0);

        // Bounds past the last token are 0 as far as the grid reaches; the rest stays as it was.
        let mut facts_expected = batch.facts(0);
        facts_expected[2..4].fill(55);
        let (reach, texts) = (blocks as usize * 32, batch.lengths.len());
        for (at, length) in [(4, batch.capacity), (4 + batch.capacity, batch.capacity)] {
            facts_expected[at + reach.min(length)..at + length].fill(55);
        }
        let starts = 4 + 2 * batch.capacity;
        facts_expected[starts + texts + 1..].fill(55);
        prop_assert_eq!(k.gpu.get_words(&facts), facts_expected);
    }

    #[test]
    fn rows_are_normalised(
        batch in batches(), precision in precisions(), seed: u64, hidden in 1..70_u32, blocks in 1..20_u32,
    ) {
        let mut k = Kernels::new(precision, seed);
        let hidden = hidden * 4;
        let width = hidden as usize;
        let facts = k.gpu.put_words(&batch.facts(0));
        let (weight, weight_at) = k.floats(width);
        let (bias, bias_at) = k.floats(width);
        let (values, rows) = k.random(batch.tokens() * width);
        k.launch("layer_norm", LaunchConfig::linear(blocks, 256), &[
            &facts.address(), &rows.address(), &weight_at.address(), &bias_at.address(), &EPSILON, &hidden,
        ]);
        let covered = (blocks as usize * 8).min(batch.tokens());
        let mut expected: Vec<Vec<f64>> = values.chunks(width).map(wide).collect();
        for row in &mut expected[..covered] {
            *row = normalised(row, &weight, &bias);
        }
        assert_close(precision, &k.get(&rows), &expected.concat(), 1.0);
    }

    #[test]
    fn bias_and_gelu_are_applied(
        batch in batches(), precision in precisions(), seed: u64, columns in 1..300_u32, blocks in 1..20_u32,
        blocks_of_columns in 1..4_u32,
    ) {
        let mut k = Kernels::new(precision, seed);
        let columns = columns * 4;
        let width = columns as usize;
        let facts = k.gpu.put_words(&batch.facts(0));
        let (bias, bias_at) = k.floats(width);
        let (values, rows) = k.random(batch.tokens() * width);
        k.launch("bias_gelu", LaunchConfig::new([blocks, blocks_of_columns, 1], [128, 1, 1]), &[
            &facts.address(), &rows.address(), &bias_at.address(), &columns,
        ]);
        let mut expected: Vec<Vec<f64>> = values.chunks(width).map(wide).collect();
        for row in expected.iter_mut().take(blocks as usize * 8) {
            for (v, bias) in row.iter_mut().zip(&bias).take(blocks_of_columns as usize * 512) {
                *v = gelu(*v + f64::from(*bias));
            }
        }
        assert_close(precision, &k.get(&rows), &expected.concat(), 0.1);
    }

    #[test]
    fn vectors_are_pooled(
        batch in batches(), precision in precisions(), seed: u64, hidden in 1..70_u32, first_only: bool,
        unit_length: bool, norm: bool, blocks in 1..8_u32,
    ) {
        let mut k = Kernels::new(precision, seed);
        let hidden = hidden * 4;
        let width = hidden as usize;
        let facts = k.gpu.put_words(&batch.facts(0));
        let (weight, weight_at) = k.floats(width);
        let (bias, bias_at) = k.floats(width);
        let (values, rows) = k.random(batch.tokens() * width);
        let out = k.gpu.put(FLOATS, &vec![UNTOUCHED; batch.lengths.len() * width]);
        let weight_or_none = if norm { weight_at.address() } else { 0 };
        k.launch("pool", LaunchConfig::linear(blocks, 256), &[
            &facts.address(), &(batch.capacity as u32), &rows.address(), &weight_or_none, &bias_at.address(),
            &EPSILON, &hidden, &u32::from(first_only), &u32::from(unit_length), &out.address(),
        ]);
        let rows: Vec<Vec<f64>> = values.chunks(width).map(wide).collect();
        let mut expected = Vec::new();
        for text in batch.starts().windows(2).take(blocks as usize) {
            let rows = if first_only { &rows[text[0]..text[0] + 1] } else { &rows[text[0]..text[1]] };
            let mut vector = vec![0.0; width];
            for row in rows {
                let row = if norm { normalised(row, &weight, &bias) } else { row.clone() };
                for (sum, v) in vector.iter_mut().zip(row) {
                    *sum += v / rows.len() as f64;
                }
            }
            if unit_length {
                let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|v| *v /= length);
            }
            expected.extend(vector);
        }
        let got = k.gpu.get(FLOATS, &out);
        let (written, rest) = got.split_at(expected.len());
        assert_close(FLOATS, written, &expected, 1.0);
        prop_assert!(rest.iter().all(|v| *v == UNTOUCHED));
    }

    #[test]
    fn attention_sees_the_tokens_of_its_text(
        batch in batches(), precision in precisions(), seed: u64, heads in 1..4_u32, large: bool, fewer in 0..2_u32,
    ) {
        let mut k = Kernels::new(precision, seed);
        let size = if large { 64 } else { 32 };
        let hidden = heads * size;
        let (width, size) = (hidden as usize, size as usize);
        let facts = k.gpu.put_words(&batch.facts(0));
        let (values, qkv) = k.random(batch.capacity * 3 * width);
        let out = k.untouched(batch.capacity * width);
        let scale = (size as f32).sqrt().recip() * 4.0;
        let queries = if precision == FLOATS { 4 } else { 64 };
        let blocks = (batch.tokens().div_ceil(queries) as u32).saturating_sub(fewer).max(1);
        k.launch(
            &format!("attention_{size}"),
            LaunchConfig::new([blocks, heads, 1], [128, 1, 1]),
            &[
                &facts.address(), &(batch.capacity as u32), &qkv.address(), &hidden, &scale, &out.address(),
            ],
        );
        let value = |token: usize, part: usize, head: usize, i: usize| {
            f64::from(values[token * 3 * width + part * width + head * size + i])
        };
        let mut expected = Vec::new();
        let covered = (blocks as usize * queries).min(batch.tokens());
        for (token, (begin, end)) in batch.bounds().into_iter().take(covered).enumerate() {
            let mut row = Vec::new();
            for head in 0..heads as usize {
                let weights: Vec<f64> = (begin..end)
                    .map(|key| {
                        let dot: f64 = (0..size).map(|i| value(token, 0, head, i) * value(key, 1, head, i)).sum();
                        (dot * f64::from(scale)).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                row.extend((0..size).map(|i| {
                    let mixed = (begin..end).zip(&weights).map(|(key, w)| w * value(key, 2, head, i));
                    mixed.sum::<f64>() / sum
                }));
            }
            expected.push(row);
        }
        k.check_rows(&k.get(&out), &expected, width, 1.0);
    }

    #[test]
    fn products_for_few_tokens_fuse_what_is_around_them(
        precision in halves(), seed: u64, three: bool, tiles in 1..4_u32, blocks in 1..5_u32, fewer in 0..2_u32,
        warps in prop::sample::select(vec![4_u32, 6, 8, 12, 16]), steps in 1..3_u32, norm: bool, with_gelu: bool,
        residual: bool, residual_norm: bool,
    ) {
        let mut k = Kernels::new(precision, seed);
        let groups = if three { 3 } else { 2 };
        let (inputs, outputs) = (warps * 32 * steps, blocks * groups * 8);
        let (wide_in, wide_out, rows) = (inputs as usize, outputs as usize, tiles as usize * 16);
        let (a, a_at) = k.random(rows * wide_in);
        let (norm_weight, norm_weight_at) = k.random(wide_in);
        let (w, w_at) = k.random(wide_out * wide_in);
        let (norm_bias, _) = k.floats(wide_in);
        let (plain_bias, _) = k.floats(wide_out);
        // As the encoder folds a norm into the product behind it.
        let folded = |scale: &[f32], output: usize| -> f64 {
            let w = &w[output * wide_in..(output + 1) * wide_in];
            w.iter().zip(scale).map(|(w, s)| f64::from(*w) * f64::from(*s)).sum()
        };
        let w_sums: Vec<f32> = (0..wide_out).map(|o| folded(&norm_weight, o) as f32).collect();
        let folded_bias: Vec<f32> =
            (0..wide_out).map(|o| (folded(&norm_bias, o) + f64::from(plain_bias[o])) as f32).collect();
        let bias = if norm { &folded_bias } else { &plain_bias };
        let (w_sums_at, bias_at) = (k.gpu.put(FLOATS, &w_sums), k.gpu.put(FLOATS, bias));
        let moments_out = k.gpu.put(FLOATS, &vec![UNTOUCHED; rows * 2]);
        let (added, added_at) = k.random(rows * wide_out);
        let (moments, moments_at) = k.floats(rows * 2);
        let (added_weight, added_weight_at) = k.floats(wide_out);
        let (added_bias, added_bias_at) = k.floats(wide_out);
        let out = k.untouched(rows * wide_out);
        let some = |there: bool, buffer: &GpuBuffer| if there { buffer.address() } else { 0 as CUdeviceptr };
        let residual_norm = residual && residual_norm;
        let launched = blocks.saturating_sub(fewer).max(1);
        let config = LaunchConfig::new([launched, tiles, 1], [warps * 32, 1, 1])
            .shared_bytes(warps * 16 * (groups * 8 + 2) * 4);
        k.launch(&format!("linear_{groups}"), config, &[
            &a_at.address(), &some(norm, &norm_weight_at), &some(norm, &w_sums_at), &EPSILON,
            &some(norm, &moments_out), &w_at.address(), &bias_at.address(), &some(residual, &added_at),
            &some(residual_norm, &moments_at), &some(residual_norm, &added_weight_at),
            &some(residual_norm, &added_bias_at), &u32::from(with_gelu), &inputs, &outputs, &out.address(),
        ]);

        let got = k.get(&out);
        let covered = (launched * groups * 8) as usize;
        // Rounding of each normalised input is the largest error.
        let scale = (wide_in as f64).sqrt() * 2.0;
        for row in 0..rows {
            let plain = wide(&a[row * wide_in..(row + 1) * wide_in]);
            let input = if norm { normalised(&plain, &norm_weight, &norm_bias) } else { plain };
            let mut expected = Vec::new();
            for output in 0..covered {
                let w = &w[output * wide_in..(output + 1) * wide_in];
                let product: f64 = input.iter().zip(w).map(|(a, w)| a * f64::from(*w)).sum();
                let mut v = product + f64::from(plain_bias[output]);
                if with_gelu {
                    v = gelu(v);
                }
                if residual {
                    let mut r = f64::from(added[row * wide_out + output]);
                    if residual_norm {
                        let [mean, inverse] = [moments[row * 2], moments[row * 2 + 1]].map(f64::from);
                        r = (r - mean) * inverse * f64::from(added_weight[output]) + f64::from(added_bias[output]);
                    }
                    v += r;
                }
                expected.push(v);
            }
            let (written, rest) = got[row * wide_out..(row + 1) * wide_out].split_at(covered);
            assert_close(precision, written, &expected, scale);
            prop_assert!(rest.iter().all(|v| *v == UNTOUCHED));
        }
        let moments = k.gpu.get(FLOATS, &moments_out);
        for (row, moments) in moments.chunks(2).enumerate() {
            if norm {
                let row = wide(&a[row * wide_in..(row + 1) * wide_in]);
                let mean = row.iter().sum::<f64>() / row.len() as f64;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64;
                let inverse = (variance + f64::from(EPSILON)).sqrt().recip();
                assert_close(FLOATS, moments, &[mean, inverse], 10.0);
            } else {
                prop_assert_eq!(moments, &[UNTOUCHED; 2]);
            }
        }
    }
}

#[test]
fn a_vector_that_is_not_finite_begins_with_not_a_number() {
    for (bad, first_is_nan) in [
        (f32::INFINITY, true),
        (f32::NAN, true),
        (1e30, true), // its square is infinite
        (1e15, false),
    ] {
        let k = Kernels::new(FLOATS, 1);
        let batch = Batch {
            lengths: vec![2, 1],
            capacity: 64,
        };
        let mut values = vec![1.0; 12];
        values[2] = bad;
        let rows = k.gpu.put(FLOATS, &values);
        let facts = k.gpu.put_words(&batch.facts(0));
        let out = k.untouched(8);
        let none: CUdeviceptr = 0;
        k.launch(
            "pool",
            LaunchConfig::linear(2, 256),
            &[
                &facts.address(),
                &64_u32,
                &rows.address(),
                &none,
                &none,
                &EPSILON,
                &4_u32,
                &0_u32,
                &1_u32,
                &out.address(),
            ],
        );
        let got = k.get(&out);
        assert_eq!(got[0].is_nan(), first_is_nan, "{bad}");
        assert_eq!(got[4..], [0.5; 4]);
    }
}

#[test]
fn a_launch_of_another_block_computes_nothing() {
    let precision = InferencePrecision::FP16;
    let mut k = Kernels::new(precision, 3);
    let batch = Batch {
        lengths: vec![16],
        capacity: 64,
    };
    let facts = k.gpu.put_words(&batch.facts(0));
    let (values, rows) = k.random(64 * 128);
    let (_, floats) = k.floats(128);
    let at = floats.address();
    for block in [[128, 1, 1], [256, 2, 1]] {
        let args: [&dyn KernelArg; 6] = [
            &facts.address(),
            &rows.address(),
            &at,
            &at,
            &EPSILON,
            &128_u32,
        ];
        k.launch("layer_norm", LaunchConfig::new([2, 1, 1], block), &args);
    }
    // One byte of shared memory too few, and inputs that the warps cannot share.
    let enough = 4 * 16 * 18 * 4;
    for (warps, shared, inputs) in [(4, enough - 1, 128_u32), (4, enough, 96), (2, enough, 128)] {
        let none: CUdeviceptr = 0;
        let config = LaunchConfig::new([1, 1, 1], [warps * 32, 1, 1]).shared_bytes(shared);
        let args: [&dyn KernelArg; 15] = [
            &rows.address(),
            &none,
            &none,
            &EPSILON,
            &none,
            &rows.address(),
            &at,
            &none,
            &none,
            &none,
            &none,
            &0_u32,
            &inputs,
            &16_u32,
            &rows.address(),
        ];
        k.launch("linear_2", config, &args);
    }
    assert_eq!(k.get(&rows), values);
    assert!(epsilon(precision) > 0.0);
}

#[test]
fn memory_that_is_not_there_fails_the_launch() {
    let mut k = Kernels::new(FLOATS, 5);
    k.gpu.expect_fault();
    let batch = Batch {
        lengths: vec![16],
        capacity: 64,
    };
    let facts = k.gpu.put_words(&batch.facts(0));
    let none: CUdeviceptr = 0;
    k.launch(
        "layer_norm",
        LaunchConfig::linear(2, 256),
        &[&facts.address(), &none, &none, &none, &EPSILON, &128_u32],
    );
    assert!(k.gpu.stream.synchronize().is_err());
}

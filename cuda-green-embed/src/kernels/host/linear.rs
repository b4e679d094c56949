//! Products of matrices.

use cuda_green::sim::Launch;

use super::{Arguments, rows::gelu};
use crate::kernels::Element;

/// Floats that are added up side by side, which lets the compiler use vector instructions.
const LANES: usize = 8;

/// Returns `a w'`, row after row, for matrices of rows of this length.
pub(crate) fn product(a: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = w.len() / inputs.max(1);
    let mut out = vec![0.0; a.len() / inputs.max(1) * outputs];
    // Four rows at a time: each load of `w` serves all of them.
    let blocks = a
        .chunks(4 * inputs.max(1))
        .zip(out.chunks_mut(4 * outputs.max(1)));
    for (a, out) in blocks {
        let mut rows = a.chunks_exact(inputs);
        match [rows.next(), rows.next(), rows.next(), rows.next()] {
            [Some(r0), Some(r1), Some(r2), Some(r3)] => {
                for (output, w) in w.chunks_exact(inputs).enumerate() {
                    let sums = four_sums([r0, r1, r2, r3], w);
                    for (row, sum) in out.chunks_exact_mut(outputs).zip(sums) {
                        if let Some(to) = row.get_mut(output) {
                            *to = sum;
                        }
                    }
                }
            }
            _ => {
                let rows = a.chunks_exact(inputs).zip(out.chunks_exact_mut(outputs));
                for (row, out) in rows {
                    for (to, w) in out.iter_mut().zip(w.chunks_exact(inputs)) {
                        [*to, ..] = four_sums([row; 4], w);
                    }
                }
            }
        }
    }
    out
}

/// Returns the products of four rows with a row.
fn four_sums(rows: [&[f32]; 4], w: &[f32]) -> [f32; 4] {
    let mut sums = [[0.0_f32; LANES]; 4];
    let (w_parts, w_rest) = w.as_chunks::<LANES>();
    let parts = rows.map(|row| row.as_chunks::<LANES>());
    let [p0, p1, p2, p3] = parts.map(|(parts, _)| parts.iter());
    for ((((w, a0), a1), a2), a3) in w_parts.iter().zip(p0).zip(p1).zip(p2).zip(p3) {
        for lane in 0..LANES {
            sums[0][lane] += a0[lane] * w[lane];
            sums[1][lane] += a1[lane] * w[lane];
            sums[2][lane] += a2[lane] * w[lane];
            sums[3][lane] += a3[lane] * w[lane];
        }
    }
    let rests = parts.map(|(_, rest)| rest.iter().zip(w_rest).map(|(a, w)| a * w).sum::<f32>());
    let mut totals = sums.map(|lanes| lanes.iter().sum::<f32>());
    for (total, rest) in totals.iter_mut().zip(rests) {
        *total += rest;
    }
    totals
}

/// Computes the product for few tokens, in blocks of so many groups of eight outputs.
pub(super) fn linear(launch: &Launch<'_>, element: Element, groups: u32) -> Option<()> {
    let mut arguments = Arguments::of(launch);
    let [a, norm_weight, w_sums] = arguments.addresses()?;
    let epsilon = arguments.float()?;
    let [moments_out, w, bias, residual, residual_moments] = arguments.addresses()?;
    let [residual_weight, residual_bias] = arguments.addresses()?;
    let [with_gelu, inputs, outputs] = arguments.numbers()?;
    let out = arguments.address()?;

    let [threads, y, z] = launch.block();
    let warps = threads / 32;
    let whole = threads.is_multiple_of(32) && y == 1 && z == 1 && (4..=16).contains(&warps);
    let shared = warps * 16 * (groups * 8 + 2) * 4;
    if !whole || !inputs.is_multiple_of(warps * 32) || launch.shared_bytes() < shared {
        return None;
    }
    let [blocks, tiles, _] = launch.grid();
    let rows = tiles as usize * 16;
    let columns = (blocks * groups * 8) as usize;
    let (inputs, outputs) = (inputs as usize, outputs as usize);

    let mut values = arguments.read(element, a, rows * inputs)?;
    let moments: Vec<(f32, f32)> = match norm_weight {
        0 => Vec::new(),
        _ => values
            .chunks_exact(inputs)
            .map(|row| moments(row, epsilon))
            .collect(),
    };
    let mut sums_of_weights = Vec::new();
    if norm_weight != 0 {
        let weight = arguments.read(element, norm_weight, inputs)?;
        for row in values.chunks_exact_mut(inputs) {
            for (v, weight) in row.iter_mut().zip(&weight) {
                *v = element.rounded(*v * weight);
            }
        }
        sums_of_weights = arguments.read(Element::F32, w_sums, columns)?;
    }
    let weights = arguments.read(element, w, columns * inputs)?;
    let bias = arguments.read(Element::F32, bias, columns)?;
    let mut sums = product(&values, &weights, inputs);
    for (row, sums) in sums.chunks_exact_mut(columns).enumerate() {
        if let Some((mean, inverse)) = moments.get(row) {
            for (v, weights) in sums.iter_mut().zip(&sums_of_weights) {
                *v = (*v - mean * weights) * inverse;
            }
        }
        for (v, bias) in sums.iter_mut().zip(&bias) {
            *v += bias;
            if with_gelu != 0 {
                *v = gelu(*v);
            }
        }
    }
    if residual != 0 {
        let mut added = arguments.read(element, residual, rows * outputs)?;
        if residual_moments != 0 {
            let moments = arguments.read(Element::F32, residual_moments, rows * 2)?;
            let weight = arguments.read(Element::F32, residual_weight, columns)?;
            let shift = arguments.read(Element::F32, residual_bias, columns)?;
            let rows = added.chunks_exact_mut(outputs);
            for (row, moments) in rows.zip(moments.as_chunks::<2>().0) {
                let [mean, inverse] = *moments;
                for ((v, weight), shift) in row.iter_mut().zip(&weight).zip(&shift) {
                    *v = (*v - mean) * inverse * weight + shift;
                }
            }
        }
        for (sums, row) in sums
            .chunks_exact_mut(columns)
            .zip(added.chunks_exact(outputs))
        {
            for (v, added) in sums.iter_mut().zip(row) {
                *v += added;
            }
        }
    }
    if norm_weight != 0 && columns > 0 {
        let pairs: Vec<f32> = moments
            .iter()
            .flat_map(|(mean, inverse)| [*mean, *inverse])
            .collect();
        arguments.write(Element::F32, moments_out, &pairs)?;
    }
    for (row, sums) in (0..).zip(sums.chunks_exact(columns)) {
        let at = out + row * outputs as u64 * element.bytes();
        arguments.write(element, at, sums)?;
    }
    Some(())
}

/// Returns a row's mean and the inverse of its deviation, from its sum and that of its squares.
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let squares = row.iter().map(|v| v * v).sum::<f32>();
    let variance = (squares / count - mean * mean).max(0.0);
    (mean, (variance + epsilon).sqrt().recip())
}

//! Attention within each text.

use cuda_green::sim::Launch;

use super::Arguments;
use crate::kernels::Element;

/// Computes attention with heads of this size.
pub(super) fn attention(launch: &Launch<'_>, element: Element, size: usize) -> Option<()> {
    let mut arguments = Arguments::of(launch);
    let facts = arguments.address()?;
    let capacity = arguments.number()? as usize;
    let qkv = arguments.address()?;
    let hidden = arguments.number()? as usize;
    let scale = arguments.float()?;
    let out = arguments.address()?;
    if launch.block() != [128, 1, 1] {
        return None;
    }
    let [blocks, heads, _] = launch.grid();
    let lists = arguments.words(facts, 4 + 2 * capacity)?;
    let (first, end) = lists.get(4..)?.split_at_checked(capacity)?;
    let covered = match element {
        // The kernel for floats heeds the number of tokens.
        Element::F32 => (blocks as usize * 4).min(*lists.first()? as usize),
        // The others read whole tiles of queries, and find out by their bounds which are tokens.
        Element::F16 | Element::Bf16 => blocks as usize * 64,
    };
    let row = 3 * hidden;
    // A query's keys may lie beyond the queries that the grid covers.
    let last = end.iter().take(covered).copied().max().unwrap_or(0) as usize;
    let values = arguments.read(element, qkv, covered.max(last) * row)?;
    let mut rows = arguments.read(element, out, covered.min(capacity) * hidden)?;
    let bounds = first.iter().zip(end).take(covered);
    for ((begin, stop), (query, to)) in bounds.zip(values.chunks(row).zip(rows.chunks_mut(hidden)))
    {
        let keys = *begin as usize * row..*stop as usize * row;
        if keys.is_empty() {
            continue;
        }
        let keys = values.get(keys)?;
        for (head, to) in to.chunks_exact_mut(size).enumerate().take(heads as usize) {
            let part = |row: usize| row * hidden + head * size..row * hidden + (head + 1) * size;
            let query = query.get(part(0))?;
            let mut scores = Vec::with_capacity(keys.len() / row);
            for key in keys.chunks_exact(row) {
                let pairs = query.iter().zip(key.get(part(1))?);
                scores.push(pairs.map(|(q, k)| q * k).sum::<f32>() * scale);
            }
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            let mut mixed = vec![0.0; size];
            for (score, value) in scores.iter().zip(keys.chunks_exact(row)) {
                let weight = (score - top).exp();
                sum += weight;
                // Tensor cores take weights of the element type.
                let weight = element.rounded(weight);
                for (mixed, v) in mixed.iter_mut().zip(value.get(part(2))?) {
                    *mixed += weight * v;
                }
            }
            for (to, mixed) in to.iter_mut().zip(mixed) {
                *to = mixed / sum;
            }
        }
    }
    arguments.write(element, out, &rows)
}

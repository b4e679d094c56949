//! The kernels that take rows: embedding, normalising, bias and GELU, pooling.

use cuda_green::sim::Launch;

use super::Arguments;
use crate::kernels::Element;

/// Normalises a row to mean 0 and variance 1, then scales and shifts it.
fn normalise(row: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / count;
    let scale = (variance + epsilon).sqrt().recip();
    for ((v, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *v = (*v - mean) * scale * weight + bias;
    }
}

/// Returns the exact GELU.
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Sums and normalises the embeddings of each token, and copies the facts of the batch.
pub(super) fn embed(launch: &Launch<'_>, element: Element) -> Option<()> {
    let mut arguments = Arguments::of(launch);
    let [input, facts] = arguments.addresses()?;
    let capacity = arguments.number()?;
    let [words, positions, types, weight, bias] = arguments.addresses()?;
    let epsilon = arguments.float()?;
    let hidden = arguments.number()? as usize;
    let out = arguments.address()?;
    if launch.block() != [256, 1, 1] {
        return None;
    }
    let (blocks, room) = (launch.grid()[0] as usize, capacity as usize);
    // What the blocks have between them: 32 tokens and 224 starts each.
    let covered = (blocks * 32).min(room);
    let covered_starts = (blocks * 224).min(room + 1);
    let input = arguments.words(input, 4 + 4 * room + 1)?;
    let (head, lists) = input.split_at_checked(4)?;
    let [tokens, texts] = [*head.first()? as usize, *head.get(1)? as usize];
    let mut lists = lists.chunks(room);
    let (ids, first, end) = (lists.next()?, lists.next()?, lists.next()?);
    let starts = input.get(4 + 3 * room..)?;

    let bounds = |list: &[u32]| {
        let list = list.iter().enumerate().take(covered);
        let bounds = list.map(|(token, bound)| if token < tokens { *bound } else { 0 });
        bounds.collect::<Vec<_>>()
    };
    let word_at = |index: usize| facts + 4 * index as u64;
    arguments.write_words(facts, head.get(..2)?)?;
    arguments.write_words(word_at(4), &bounds(first))?;
    arguments.write_words(word_at(4 + room), &bounds(end))?;
    let starts = starts.get(..covered_starts.min(texts + 1))?;
    arguments.write_words(word_at(4 + 2 * room), starts)?;

    let weight = arguments.read(Element::F32, weight, hidden)?;
    let bias = arguments.read(Element::F32, bias, hidden)?;
    let types = arguments.read(element, types, hidden)?;
    let row_bytes = hidden as u64 * element.bytes();
    let row = |table: u64, index: u32| {
        let address = table.wrapping_add(u64::from(index).wrapping_mul(row_bytes));
        arguments.read(element, address, hidden)
    };
    let mut rows = Vec::new();
    for (token, (id, first)) in (0..).zip(ids.iter().zip(first)).take(tokens.min(covered)) {
        let word = row(words, *id)?;
        let position = row(positions, u32::wrapping_sub(token, *first))?;
        let sums = word.iter().zip(&position).zip(&types);
        let mut sum: Vec<f32> = sums.map(|((a, b), c)| a + b + c).collect();
        normalise(&mut sum, &weight, &bias, epsilon);
        rows.extend(sum);
    }
    arguments.write(element, out, &rows)
}

/// Normalises each row in place.
pub(super) fn layer_norm(launch: &Launch<'_>, element: Element) -> Option<()> {
    let mut arguments = Arguments::of(launch);
    let [facts, rows, weight, bias] = arguments.addresses()?;
    let epsilon = arguments.float()?;
    let hidden = arguments.number()? as usize;
    if launch.block() != [256, 1, 1] {
        return None;
    }
    let tokens = *arguments.words(facts, 1)?.first()? as usize;
    let covered = tokens.min(launch.grid()[0] as usize * 8);
    let weight = arguments.read(Element::F32, weight, hidden)?;
    let bias = arguments.read(Element::F32, bias, hidden)?;
    let mut values = arguments.read(element, rows, covered * hidden)?;
    for row in values.chunks_exact_mut(hidden) {
        normalise(row, &weight, &bias, epsilon);
    }
    arguments.write(element, rows, &values)
}

/// Adds a bias to each row and applies GELU, in place.
pub(super) fn bias_gelu(launch: &Launch<'_>, element: Element) -> Option<()> {
    let mut arguments = Arguments::of(launch);
    let [facts, rows, bias] = arguments.addresses()?;
    let columns = arguments.number()? as usize;
    if launch.block() != [128, 1, 1] {
        return None;
    }
    let [blocks, blocks_of_columns, _] = launch.grid();
    let tokens = *arguments.words(facts, 1)?.first()? as usize;
    let covered = tokens.min(blocks as usize * 8);
    let bias = arguments.read(
        Element::F32,
        bias,
        columns.min(blocks_of_columns as usize * 512),
    )?;
    let mut values = arguments.read(element, rows, covered * columns)?;
    for row in values.chunks_exact_mut(columns) {
        for (v, bias) in row.iter_mut().zip(&bias) {
            *v = gelu(*v + bias);
        }
    }
    arguments.write(element, rows, &values)
}

/// Writes each text's vector.
pub(super) fn pool(launch: &Launch<'_>, element: Element) -> Option<()> {
    let mut arguments = Arguments::of(launch);
    let facts = arguments.address()?;
    let capacity = arguments.number()? as usize;
    let [rows, weight, bias] = arguments.addresses()?;
    let epsilon = arguments.float()?;
    let [hidden, first_only, unit_length] = arguments.numbers()?;
    let out = arguments.address()?;
    if launch.block() != [256, 1, 1] {
        return None;
    }
    let hidden = hidden as usize;
    let texts = *arguments.words(facts, 2)?.get(1)? as usize;
    let covered = texts.min(launch.grid()[0] as usize);
    if covered == 0 {
        return Some(());
    }
    let starts_at = facts + 4 * (4 + 2 * capacity as u64);
    let starts = arguments.words(starts_at, covered + 1)?;
    let norm = match weight {
        0 => None,
        _ => Some((
            arguments.read(Element::F32, weight, hidden)?,
            arguments.read(Element::F32, bias, hidden)?,
        )),
    };
    let mut vectors = Vec::new();
    for bounds in starts.windows(2) {
        let start = *bounds.first()?;
        let end = if first_only != 0 {
            start.wrapping_add(1)
        } else {
            *bounds.get(1)?
        };
        let count = end.saturating_sub(start) as usize;
        let address = rows + u64::from(start) * hidden as u64 * element.bytes();
        let mut values = arguments.read(element, address, count * hidden)?;
        let mut vector = vec![0.0; hidden];
        for row in values.chunks_exact_mut(hidden) {
            if let Some((weight, bias)) = &norm {
                normalise(row, weight, bias, epsilon);
            }
            for (sum, v) in vector.iter_mut().zip(row) {
                *sum += *v;
            }
        }
        for v in &mut vector {
            *v *= 1.0 / end.wrapping_sub(start) as f32;
        }
        let total = vector.iter().map(|v| v * v).sum::<f32>();
        if unit_length != 0 {
            let factor = 1.0 / total.sqrt().max(1e-12);
            vector.iter_mut().for_each(|v| *v *= factor);
        }
        if !total.is_finite() {
            *vector.first_mut()? = f32::NAN;
        }
        vectors.extend(vector);
    }
    arguments.write(Element::F32, out, &vectors)
}

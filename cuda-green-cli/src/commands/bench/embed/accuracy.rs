//! How far the vectors of half precision are from those in 32 bits, and whether they find the same neighbours.

use std::{sync::Mutex, thread};

use cuda_green_embed::{BulkEmbedder, InferencePrecision};

use super::{figures::Accuracy, setup::Setup};

/// The neighbours that are compared.
const NEAREST: usize = 10;

pub fn measure(setup: &Setup<'_>) -> anyhow::Result<Vec<Accuracy>> {
    let texts = &setup.texts[..setup.texts.len().min(20_000)];
    let vectors = |precision| -> anyhow::Result<Vec<Vec<f32>>> {
        let tokens = setup.count(8_192, 0) as u32;
        let placed = setup.place(precision, None, tokens)?;
        let mut vectors = Vec::with_capacity(texts.len());
        BulkEmbedder::new(&setup.tokenizer, &placed.encoder).embed(texts, |_, vector| {
            vectors.push(unit(vector));
            Ok(())
        })?;
        Ok(vectors)
    };
    let exact = vectors(InferencePrecision::FP32)?;
    let queries: Vec<usize> = (0..texts.len())
        .step_by(texts.len().div_ceil(500))
        .collect();
    let exact_nearest = nearest(&exact, &queries, setup.cores);
    let mut rows = Vec::new();
    for precision in [InferencePrecision::FP16, InferencePrecision::BF16] {
        let found = vectors(precision)?;
        let compared = texts.len().min(2_000);
        let cosines = exact.iter().zip(&found).take(compared);
        let cosines: Vec<f64> = cosines.map(|(a, b)| dot(a, b)).collect();
        let near = nearest(&found, &queries, setup.cores);
        let (mut agreeing, mut all) = (0, 0);
        for (one, other) in exact_nearest.iter().zip(&near) {
            agreeing += one.iter().filter(|text| other.contains(text)).count();
            all += one.len();
        }
        rows.push(Accuracy {
            precision: precision.name().to_owned(),
            texts: compared,
            least_cosine: cosines.iter().copied().fold(1.0, f64::min),
            mean_cosine: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
            among: texts.len(),
            queries: queries.len(),
            same_of_ten_nearest: agreeing as f64 / all.max(1) as f64,
        });
    }
    Ok(rows)
}

/// Returns the vector at length 1: not every model scales its own.
fn unit(vector: &[f32]) -> Vec<f32> {
    let length = dot(vector, vector).sqrt().max(f64::MIN_POSITIVE);
    let scaled = vector
        .iter()
        .map(|value| (f64::from(*value) / length) as f32);
    scaled.collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

/// Returns the texts nearest to each query but itself.
fn nearest(vectors: &[Vec<f32>], queries: &[usize], threads: usize) -> Vec<Vec<usize>> {
    let of_query = |query: usize| {
        let mut near: Vec<(f64, usize)> = (0..vectors.len())
            .filter(|text| *text != query)
            .map(|text| (dot(&vectors[query], &vectors[text]), text))
            .collect();
        near.sort_by(|one, other| other.0.total_cmp(&one.0));
        near.truncate(NEAREST);
        near.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
    };
    let next = Mutex::new(queries.iter().enumerate());
    let found = Mutex::new(vec![Vec::new(); queries.len()]);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((index, query)) = next
                        .lock()
                        .unwrap_or_else(|error| error.into_inner())
                        .next()
                    else {
                        return;
                    };
                    let near = of_query(*query);
                    found.lock().unwrap_or_else(|error| error.into_inner())[index] = near;
                }
            });
        }
    });
    found
        .into_inner()
        .unwrap_or_else(|error| error.into_inner())
}

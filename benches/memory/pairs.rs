//! What an allocation and its end cost on one thread, in alternating batches of one run.

use std::{hint::black_box, time::Instant};

use cuda_green::{CudaDevice, GpuMemoryPool};
use serde_json::{Map, Value, json};

use crate::{
    LIMIT, MIB,
    allocators::{Allocator, Ours, Plain, RawPool},
    common::{Outcome, percentile, sort},
};

pub fn batch<A: Allocator>(allocator: &A, size: usize, pairs: usize) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..pairs {
        allocator.give(black_box(allocator.take(size)?))?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / pairs as f64)
}

/// Each pair timed by itself, the clock's own cost left in.
fn spread<A: Allocator>(allocator: &A, size: usize, pairs: usize) -> Outcome<Value> {
    let mut samples = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let start = Instant::now();
        allocator.give(black_box(allocator.take(size)?))?;
        samples.push(start.elapsed().as_nanos() as f64);
    }
    sort(&mut samples);
    Ok(json!({
        "p50_ns": percentile(&samples, 0.5), "p99_ns": percentile(&samples, 0.99),
        "p999_ns": percentile(&samples, 0.999), "max_ns": percentile(&samples, 1.0),
    }))
}

pub fn pairs(
    device: &CudaDevice,
    raw: &RawPool<'_>,
    quick: bool,
    figures: &mut Map<String, Value>,
) -> Outcome {
    let ours = Ours(GpuMemoryPool::on(device, LIMIT)?);
    let plain = Plain(device.driver().api());
    let rounds = if quick { 3 } else { 100 };
    println!(
        "{:<26} {:>11} {:>11} {:>11}   ours p99.9",
        "allocate + free", "ours", "raw pool", "cuMemAlloc"
    );
    for (name, size) in [
        ("256 B", 256),
        ("4 KiB", 4 << 10),
        ("64 KiB", 64 << 10),
        ("1 MiB", MIB),
        ("8 MiB", 8 * MIB),
        ("64 MiB", 64 * MIB),
        ("1 GiB", 1024 * MIB),
    ] {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        batch(&ours, size, 100)?;
        batch(raw, size, 100)?;
        for round in 0..rounds {
            // Which goes first alternates, so that neither always finds the caches of the other.
            for which in 0..3 {
                match (which + round) % 3 {
                    0 => times[0].push(batch(&ours, size, 10_000)?),
                    1 => times[1].push(batch(raw, size, 2_000)?),
                    _ => times[2].push(batch(&plain, size, if quick { 2 } else { 10 })?),
                }
            }
        }
        let medians = times.map(|mut samples| {
            sort(&mut samples);
            percentile(&samples, 0.5)
        });
        let spreads = [
            spread(&ours, size, 200_000)?,
            spread(raw, size, if quick { 2_000 } else { 100_000 })?,
        ];
        println!(
            "{name:<26} {:>8.1} ns {:>8.1} ns {:>8.0} ns   {} ns",
            medians[0], medians[1], medians[2], spreads[0]["p999_ns"]
        );
        let [of_ours, of_raw] = spreads;
        figures.insert(
            format!("pair {name}"),
            json!({
                "ours_ns": medians[0], "raw_pool_ns": medians[1], "cu_mem_alloc_ns": medians[2],
                "rounds": rounds, "ours": of_ours, "raw_pool": of_raw,
            }),
        );
    }
    Ok(())
}

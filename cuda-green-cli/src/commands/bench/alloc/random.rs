//! The fragmentation that RMM's random workload leaves.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cuda_green::GpuMemoryPool;
use serde::{Deserialize, Serialize};

use super::{
    allocators::{Allocator, Ours, RawPool},
    sizes::{LIMIT, MIB},
};
use crate::{
    commands::bench::{numbers::Numbers, run::Work},
    render::duration::duration,
};

/// A run of random allocations up to a size, and the excess of the driver's memory over the memory in use, both at
/// their peak.
#[derive(Serialize, Deserialize)]
pub struct Random {
    allocations: usize,
    up_to_mib: usize,
    ours_ns: f64,
    raw_pool_ns: f64,
    in_use_high_bytes: u64,
    ours_from_driver_high_bytes: u64,
    raw_pool_reserved_high_bytes: u64,
    ours_overhead: f64,
    raw_pool_overhead: f64,
}

/// Allocates or frees at even odds, as RMM's `random_allocations` does: a random size up to `most`, or a random block.
/// Frees if the memory in use would pass the limit.
fn workload<A: Allocator>(
    allocator: &A,
    count: usize,
    most: usize,
) -> anyhow::Result<(Duration, u64)> {
    let mut numbers = Numbers(1);
    let mut blocks: Vec<(A::Block, usize)> = Vec::new();
    let (mut in_use, mut high, mut allocated) = (0, 0u64, 0);
    let mut took = Duration::ZERO;
    while allocated < count {
        let size = 1 + numbers.below(most as u64) as usize;
        let allocate = numbers.below(2) == 0 || blocks.is_empty();
        if allocate && in_use + size <= LIMIT as usize {
            let start = Instant::now();
            let block = allocator.take(size)?;
            took += start.elapsed();
            blocks.push((block, size));
            in_use += size;
            allocated += 1;
        } else {
            let at = numbers.below(blocks.len() as u64) as usize;
            let (block, size) = blocks.swap_remove(at);
            let start = Instant::now();
            allocator.give(block)?;
            took += start.elapsed();
            in_use -= size;
        }
        high = high.max(in_use as u64);
    }
    for (block, _) in blocks {
        allocator.give(block)?;
    }
    Ok((took, high))
}

/// Returns the excess of the driver's memory, as a share of the memory in use.
fn overhead(from_driver: u64, in_use: u64) -> f64 {
    from_driver as f64 / in_use as f64 - 1.0
}

pub fn measure(work: &Work<'_>, raw: &RawPool<'_>) -> anyhow::Result<Vec<Random>> {
    let counts: &[usize] = if work.quick {
        &[1_000]
    } else {
        &[1_000, 10_000, 100_000]
    };
    let mut rows = Vec::new();
    for up_to_mib in [4, 64] {
        for &allocations in counts {
            // The driver's own steps are of 32 MiB, so small runs mostly show rounding, on both sides.
            let ours = Ours(GpuMemoryPool::on(work.device, LIMIT + LIMIT / 4)?);
            let (our_time, high) = workload(&ours, allocations, up_to_mib * MIB)?;
            let ours_high = ours.0.metrics().from_driver_high;
            drop(ours);
            raw.reset()?;
            let (raw_time, _) = workload(raw, allocations, up_to_mib * MIB)?;
            let raw_high = raw.reserved(true)?;
            let each = |time: Duration| time.as_secs_f64() * 1e9 / allocations as f64;
            rows.push(Random {
                allocations,
                up_to_mib,
                ours_ns: each(our_time),
                raw_pool_ns: each(raw_time),
                in_use_high_bytes: high,
                ours_from_driver_high_bytes: ours_high,
                raw_pool_reserved_high_bytes: raw_high,
                ours_overhead: overhead(ours_high, high),
                raw_pool_overhead: overhead(raw_high, high),
            });
        }
    }
    raw.reset()?;
    ensure!(
        raw.reserved(false)? <= LIMIT,
        "the driver's pool kept its memory"
    );
    Ok(rows)
}

pub fn table(rows: &[Random]) -> String {
    let mut table = format!(
        "{:<26} {:>10} {:>7} {:>10} {:>7}\n",
        "random allocations", "ours", "beyond", "raw pool", "beyond"
    );
    for row in rows {
        let what = format!("{} up to {} MiB", row.allocations, row.up_to_mib);
        let [ours, raw] = [row.ours_ns, row.raw_pool_ns].map(duration);
        let [ours_more, raw_more] =
            [row.ours_overhead, row.raw_pool_overhead].map(|share| share * 100.0);
        table += &format!("{what:<26} {ours:>10} {ours_more:>5.0} % {raw:>10} {raw_more:>5.0} %\n");
    }
    table + "beyond: peak memory taken from the device, beyond the peak in use\n"
}

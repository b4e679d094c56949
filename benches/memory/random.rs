//! What RMM's random workload leaves in pieces.

use std::time::{Duration, Instant};

use cuda_green::{CudaDevice, GpuMemoryPool};
use serde_json::{Map, Value, json};

use crate::{
    LIMIT, MIB,
    allocators::{Allocator, Ours, RawPool},
    common::Outcome,
};

/// The same numbers everywhere: `random` 's MINSTD, which C++ and Python have, too.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0 * 48_271 % 2_147_483_647;
        self.0 % end
    }
}

/// After RMM's `random_allocations`: at even odds, allocate a random size up to a maximum or free a random
/// block, and free one where the memory in use would pass the limit.
fn workload<A: Allocator>(
    allocator: &A,
    count: usize,
    most: usize,
    mut after_each: impl FnMut(usize) -> Outcome,
) -> Outcome<(Duration, u64)> {
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
        after_each(in_use)?;
    }
    for (block, _) in blocks {
        allocator.give(block)?;
    }
    Ok((took, high))
}

/// How much the driver's memory exceeds what was in use, at the most of both.
fn overhead(from_driver: u64, in_use: u64) -> f64 {
    from_driver as f64 / in_use as f64 - 1.0
}

pub fn random(
    device: &CudaDevice,
    raw: &RawPool<'_>,
    quick: bool,
    figures: &mut Map<String, Value>,
) -> Outcome {
    println!(
        "\n{:<26} {:>21} {:>21}",
        "random allocations", "ours", "raw pool"
    );
    let counts: &[usize] = if quick {
        &[1_000]
    } else {
        &[1_000, 10_000, 100_000]
    };
    for most in [4, 64] {
        for &count in counts {
            // The driver's own steps are of 32 MiB, so small runs are all rounding, on both sides.
            let ours = Ours(GpuMemoryPool::on(device, LIMIT + LIMIT / 4)?);
            let (our_time, high) = workload(&ours, count, most * MIB, |_| Ok(()))?;
            let ours_high = ours.0.metrics().from_driver_high;
            drop(ours);
            raw.reset()?;
            let (raw_time, _) = workload(raw, count, most * MIB, |_| Ok(()))?;
            let raw_high = raw.reserved(true)?;
            let each = |time: Duration| time.as_secs_f64() * 1e9 / count as f64;
            let more = [overhead(ours_high, high), overhead(raw_high, high)];
            println!(
                "{:<26} {:>9.0} ns {:>6.1} % {:>9.0} ns {:>6.1} %",
                format!("{count} up to {most} MiB"),
                each(our_time),
                more[0] * 100.0,
                each(raw_time),
                more[1] * 100.0
            );
            figures.insert(
                format!("random {count} up to {most} MiB"),
                json!({
                    "ours_ns": each(our_time), "raw_pool_ns": each(raw_time), "in_use_high_bytes": high,
                    "ours_from_driver_high_bytes": ours_high, "raw_pool_reserved_high_bytes": raw_high,
                    "ours_overhead": more[0], "raw_pool_overhead": more[1],
                }),
            );
        }
    }
    raw.reset()?;
    assert!(
        raw.reserved(false)? <= LIMIT,
        "the driver's pool was emptied"
    );
    Ok(())
}

//! What an allocation and its end cost on several threads at once.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use cuda_green::{CudaDevice, GpuMemoryPool};
use serde_json::{Map, Value, json};

use crate::{
    LIMIT,
    allocators::{Allocator, Ours, RawPool},
    common::{Outcome, percentile, sort},
    pairs::batch,
};

/// Pairs between two looks at the clock.
const BATCH: usize = 200;

/// The time of a pair, in nanoseconds, of each batch of each thread, all of them from a moment at which every
/// thread was at work to one at which every one still was. A thread is started on whatever core is awake and
/// moved to one of its own within some milliseconds, which is the scheduler's cost and not the allocator's;
/// so they run for a while before it counts.
fn together<A: Allocator>(
    allocator: &A,
    threads: usize,
    (warm_up, time): (Duration, Duration),
) -> Outcome<Vec<f64>> {
    let (running, counts, over) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        let work = || -> Outcome<Vec<f64>> {
            batch(allocator, 4096, 100)?;
            running.fetch_add(1, Ordering::Relaxed);
            while !counts.load(Ordering::Relaxed) && !over.load(Ordering::Relaxed) {
                batch(allocator, 4096, BATCH)?;
            }
            let mut samples = Vec::new();
            loop {
                let sample = batch(allocator, 4096, BATCH)?;
                if over.load(Ordering::Relaxed) {
                    return Ok(samples);
                }
                samples.push(sample);
            }
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        while running.load(Ordering::Relaxed) < threads
            && !handles.iter().any(|one| one.is_finished())
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(warm_up);
        counts.store(true, Ordering::Relaxed);
        let start = Instant::now();
        while start.elapsed() < time {
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        for handle in handles {
            samples.extend(handle.join().map_err(|_| "a thread panicked")??);
        }
        Ok(samples)
    })
}

pub fn threads(
    device: &CudaDevice,
    raw: &RawPool<'_>,
    quick: bool,
    figures: &mut Map<String, Value>,
) -> Outcome {
    let ours = Ours(GpuMemoryPool::on(device, LIMIT)?);
    let times = if quick {
        (Duration::from_millis(10), Duration::from_millis(200))
    } else {
        (Duration::from_millis(200), Duration::from_millis(500))
    };
    println!(
        "\n{:<26} {:>11} {:>11} {:>11} {:>11}",
        "a pair of 4 KiB, threads", "ours", "mean", "p99", "raw pool"
    );
    for threads in [1, 2, 4, 8, 16] {
        // Thrice in turn, so that one disturbance is not all there is.
        let (mut of_ours, mut of_raw) = (Vec::new(), Vec::new());
        for _ in 0..if quick { 1 } else { 3 } {
            of_ours.extend(together(&ours, threads, times)?);
            of_raw.extend(together(raw, threads, times)?);
        }
        if of_ours.is_empty() || of_raw.is_empty() {
            return Err("no batch ended in time".into());
        }
        sort(&mut of_ours);
        sort(&mut of_raw);
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(&of_ours, share));
        let raw = percentile(&of_raw, 0.5);
        // What a disturbance costs shows in the mean, and what contention costs in the median.
        let [mean, raw_mean] =
            [&of_ours, &of_raw].map(|samples| samples.iter().sum::<f64>() / samples.len() as f64);
        println!("{threads:<26} {p50:>8.1} ns {mean:>8.1} ns {p99:>8.1} ns {raw:>8.1} ns");
        figures.insert(
            format!("pair on {threads} threads"),
            json!({
                "ours_ns": p50, "ours_mean_ns": mean, "ours_p99_of_batches_ns": p99,
                "raw_pool_ns": raw, "raw_pool_mean_ns": raw_mean,
                "pairs_in_a_batch": BATCH, "batches": of_ours.len(),
            }),
        );
    }
    Ok(())
}

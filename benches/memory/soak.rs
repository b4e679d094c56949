//! Operations at full speed for a long time; in the end the driver's own counters are where they were.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use cuda_green::{CudaDevice, GpuMemoryPool};
use driver_matrix::evidence;
use serde_json::{Value, json};

use crate::{LIMIT, allocators::RawPool, common::Outcome, random::Numbers};

/// How long a soak runs, and on how many threads.
pub struct Length {
    pub seconds: f64,
    pub threads: usize,
}

/// One thread's work until the end: sizes up to 4 MiB, 50 buffers held at once, each freed at random.
fn work(pool: &GpuMemoryPool, seed: u64, end: Instant) -> Outcome<u64> {
    let mut numbers = Numbers(seed);
    let mut held = Vec::new();
    let mut operations = 0;
    while Instant::now() < end {
        for _ in 0..1000 {
            if held.len() > 50 || (numbers.below(2) == 0 && !held.is_empty()) {
                let at = numbers.below(held.len() as u64) as usize;
                drop(held.swap_remove(at));
            } else {
                let size = 1 << numbers.below(23);
                held.push(pool.allocate(1 + numbers.below(size) as usize)?);
            }
        }
        operations += 1000;
    }
    Ok(operations + held.len() as u64)
}

/// Operations a second of all threads together.
fn run(pool: &GpuMemoryPool, length: &Length) -> Outcome<(u64, f64)> {
    let operations = AtomicU64::new(0);
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(length.seconds);
    std::thread::scope(|scope| -> Outcome {
        let running: Vec<_> = (1..=length.threads as u64)
            .map(|seed| {
                let operations = &operations;
                scope.spawn(move || -> Outcome {
                    operations.fetch_add(work(pool, seed, end)?, Ordering::Relaxed);
                    Ok(())
                })
            })
            .collect();
        for thread in running {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })?;
    Ok((operations.into_inner(), start.elapsed().as_secs_f64()))
}

/// What the driver counts: the device's free memory, and what its pools have (zero where they are new).
fn counters(device: &CudaDevice, raw: &RawPool<'_>) -> Outcome<Value> {
    Ok(json!({
        "free_bytes": device.free_memory()?,
        "raw_pool_reserved_bytes": raw.reserved(false)?,
    }))
}

/// Runs it and gives its figures, which are whole also where memory was lost: [`check`] says so.
///
/// How much an hour is, is measured first: what one thread alone does of the same in a second, times 3,600.
pub fn soak(device: &CudaDevice, length: &Length) -> Outcome<Value> {
    let raw = RawPool::new(device)?;
    // The first such work of a process leaves the driver with memory of its own: on an H200 2 MiB on 16
    // threads, and no more where other benchmarks had run before. It is no loss of ours, so the same work on
    // as many threads comes before the first count.
    let warm_up = Length {
        seconds: (length.seconds / 5.0).min(1.0),
        threads: length.threads,
    };
    run(&GpuMemoryPool::on(device, LIMIT)?, &warm_up)?;
    let before = counters(device, &raw)?;
    let alone = Length {
        seconds: (length.seconds / 20.0).min(5.0),
        threads: 1,
    };
    let (operations, seconds) = run(&GpuMemoryPool::on(device, LIMIT)?, &alone)?;
    let one_thread = operations as f64 / seconds;
    println!("\nsoak: one thread alone does {one_thread:.0} operations a second");
    let pool = GpuMemoryPool::on(device, LIMIT)?;
    let (operations, seconds) = run(&pool, length)?;
    let metrics = pool.metrics();
    // Checked against the driver's count of what its pool has given out.
    let given_back = pool.trim()?;
    let from_driver = pool.metrics().from_driver;
    drop(pool);
    let after = counters(device, &raw)?;
    let hours = operations as f64 / (one_thread * 3600.0);
    println!(
        "{operations} operations in {seconds:.1} s on {} threads, what one thread does in {hours:.2} h\n{metrics}",
        length.threads
    );
    println!("driver before {before}, after {after}");
    let lost = before != after || metrics.used != 0 || from_driver != 0;
    Ok(json!({
        "seconds": seconds, "threads": length.threads, "operations": operations,
        "one_thread_operations_per_second": one_thread, "hours_of_one_thread": hours,
        "driver_before": before, "driver_after": after, "given_back_bytes": given_back,
        "memory_was_lost": lost, "pool": metrics,
    }))
}

/// Whether everything was back in the end. Asked once the figures are written, since they tell what was not.
pub fn check(figures: &Value) -> Outcome {
    if figures["memory_was_lost"] == json!(false) {
        return Ok(());
    }
    let [before, after] = ["driver_before", "driver_after"].map(|when| &figures[when]);
    Err(format!("memory was lost: {before} before, {after} after").into())
}

/// The soak alone, as evidence of its own.
pub fn alone(device: &CudaDevice, length: &Length, out: Option<&Path>) -> Outcome {
    let figures = soak(device, length)?;
    let verdict = check(&figures);
    if let Some(path) = out {
        let command = format!(
            "cargo bench --bench memory -- --driver {} --soak {} --threads {} --out FILE",
            device.driver().source(),
            length.seconds,
            length.threads
        );
        evidence::write(path, device, &command, figures)?;
    }
    verdict
}

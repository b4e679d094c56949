//! Operations at full speed for a long time, after which the driver's own counters must be what they were before.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use cuda_green::{CudaDevice, GpuMemoryPool, PoolMetrics};
use serde::Serialize;

use super::{allocators::RawPool, sizes::LIMIT};
use crate::{
    commands::bench::{
        numbers::Numbers,
        run::{Figures, Work},
    },
    render::duration::duration,
};

/// The duration of a soak, and its number of threads.
pub struct Length {
    pub seconds: f64,
    pub threads: u16,
}

#[derive(Serialize)]
pub struct Soak {
    seconds: f64,
    threads: u16,
    operations: u64,
    /// The rate of one thread alone.
    one_thread_operations_per_second: f64,
    /// The time of one thread for as many operations.
    hours_of_one_thread: f64,
    driver_before: Counters,
    driver_after: Counters,
    given_back_bytes: u64,
    memory_was_lost: bool,
    pool: PoolMetrics,
}

/// The driver's counters: the device's free memory, and the memory of the driver's pool (zero if it is new).
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
struct Counters {
    free_bytes: u64,
    raw_pool_reserved_bytes: u64,
}

impl Counters {
    fn now(device: &CudaDevice, raw: &RawPool<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            free_bytes: device.free_memory()?,
            raw_pool_reserved_bytes: raw.reserved(false)?,
        })
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, pool) = (self.free_bytes, self.raw_pool_reserved_bytes);
        write!(f, "{free} bytes free, {pool} in its pool")
    }
}

/// Runs one thread's work until `end`, at least once: sizes up to 4 MiB, and 50 buffers at once, each freed at random.
fn work(pool: &GpuMemoryPool, seed: u64, end: Instant) -> anyhow::Result<u64> {
    let mut numbers = Numbers(seed);
    let mut held = Vec::new();
    let mut operations = 0;
    loop {
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
        if Instant::now() >= end {
            return Ok(operations + held.len() as u64);
        }
    }
}

/// Returns the operations of all threads together, and the seconds that they took.
fn run(pool: &GpuMemoryPool, length: &Length) -> anyhow::Result<(u64, f64)> {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(length.seconds);
    let operations = thread::scope(|scope| -> anyhow::Result<u64> {
        let mut running = Vec::new();
        for seed in 1..=u64::from(length.threads) {
            let thread = thread::Builder::new();
            running.push(thread.spawn_scoped(scope, move || work(pool, seed, end))?);
        }
        let mut operations = 0;
        for thread in running {
            let ended = thread.join();
            operations += ended.map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(operations)
    })?;
    Ok((operations, start.elapsed().as_secs_f64()))
}

/// Runs the soak. The figures are complete even if memory was lost, which the verdict reports.
///
/// First measures the rate of one thread alone, by which `hours_of_one_thread` is counted.
pub fn measure(given: &Work<'_>, length: &Length) -> anyhow::Result<Soak> {
    let device = given.device;
    let (seconds, threads) = (length.seconds, length.threads);
    let message = format!("soak: {seconds} s on {threads} threads");
    given.progress.set_message(message);
    let raw = RawPool::new(device)?;
    // In the first such work of a process, the driver keeps some memory: 2 MiB on an H200 with 16 threads, and none if
    // other benchmarks ran before. That is not a loss of the pool, so the same work on as many threads comes before
    // the first count.
    let warm_up = Length {
        seconds: (seconds / 5.0).min(1.0),
        threads,
    };
    run(&GpuMemoryPool::on(device, LIMIT)?, &warm_up)?;
    let driver_before = Counters::now(device, &raw)?;
    let alone = Length {
        seconds: (seconds / 20.0).min(5.0),
        threads: 1,
    };
    let (operations, took) = run(&GpuMemoryPool::on(device, LIMIT)?, &alone)?;
    let one_thread = operations as f64 / took;
    let pool = GpuMemoryPool::on(device, LIMIT)?;
    let (operations, seconds) = run(&pool, length)?;
    let metrics = pool.metrics();
    // Trimming compares with the driver's count of the memory that its pool has given out.
    let given_back_bytes = pool.trim()?;
    let from_driver = pool.metrics().from_driver;
    drop(pool);
    let driver_after = Counters::now(device, &raw)?;
    given.progress.inc(1);
    Ok(Soak {
        seconds,
        threads,
        operations,
        one_thread_operations_per_second: one_thread,
        hours_of_one_thread: operations as f64 / (one_thread * 3600.0),
        driver_before,
        driver_after,
        given_back_bytes,
        memory_was_lost: driver_before != driver_after || metrics.used != 0 || from_driver != 0,
        pool: metrics,
    })
}

impl Figures for Soak {
    fn table(&self) -> String {
        format!(
            "soak: {} operations in {:.1} s on {} threads,\nas many as one thread does in {}\n\n{}\n\nthe driver before: {}\nthe driver after:  {}",
            self.operations,
            self.seconds,
            self.threads,
            duration(self.hours_of_one_thread * 3.6e12),
            // On a busy machine, its last lines are long.
            textwrap::fill(&self.pool.to_string(), 80),
            self.driver_before,
            self.driver_after
        )
    }

    fn verdict(&self) -> anyhow::Result<()> {
        ensure!(
            !self.memory_was_lost,
            "memory was lost: the driver counted {} before, {} after, and {} bytes were in use",
            self.driver_before,
            self.driver_after,
            self.pool.used
        );
        Ok(())
    }
}

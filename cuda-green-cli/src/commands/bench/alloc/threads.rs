//! The cost of an allocation and its release on several threads at once.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use cuda_green::GpuMemoryPool;
use serde::{Deserialize, Serialize};

use super::{
    allocators::{Allocator, Ours, RawPool},
    pairs::batch,
    sizes::LIMIT,
};
use crate::{
    commands::bench::{run::Work, samples::Samples},
    render::duration::duration,
};

/// Pairs between two readings of the clock.
const BATCH: usize = 200;
const SIZE: usize = 4 << 10;

/// Figures of batches of 4 KiB pairs, on this number of threads at once.
#[derive(Serialize, Deserialize)]
pub struct Threads {
    threads: usize,
    ours_ns: f64,
    ours_mean_ns: f64,
    ours_p99_of_batches_ns: f64,
    raw_pool_ns: f64,
    raw_pool_mean_ns: f64,
    pairs_in_a_batch: usize,
    batches: usize,
}

/// The state of a run, as its threads see it.
#[derive(Default)]
struct Run {
    at_work: AtomicUsize,
    counts: AtomicBool,
    over: AtomicBool,
}

impl Run {
    /// Runs one thread's part, and returns the time of a pair in each batch that counts.
    fn work<A: Allocator>(&self, allocator: &A) -> anyhow::Result<Vec<f64>> {
        batch(allocator, SIZE, 100)?;
        self.at_work.fetch_add(1, Ordering::Relaxed);
        while !self.counts.load(Ordering::Relaxed) && !self.over.load(Ordering::Relaxed) {
            batch(allocator, SIZE, BATCH)?;
        }
        let mut samples = Vec::new();
        loop {
            let sample = batch(allocator, SIZE, BATCH)?;
            if self.over.load(Ordering::Relaxed) {
                return Ok(samples);
            }
            samples.push(sample);
        }
    }
}

/// Returns the time of a pair, in nanoseconds, in each batch of each thread. Only batches count during which every
/// thread was at work. A new thread starts on whatever core is awake and is moved to another within some milliseconds,
/// which is the scheduler's cost and not the allocator's, so the threads run for a while before anything counts.
fn together<A: Allocator>(
    allocator: &A,
    threads: usize,
    (warm_up, time): (Duration, Duration),
) -> anyhow::Result<Vec<f64>> {
    let run = Run::default();
    thread::scope(|scope| {
        let start = || {
            let thread = thread::Builder::new();
            thread.spawn_scoped(scope, || run.work(allocator))
        };
        let mut handles = Vec::new();
        for _ in 0..threads {
            // If a thread cannot be started, those that run must end.
            let thread = start().inspect_err(|_| run.over.store(true, Ordering::Relaxed))?;
            handles.push(thread);
        }
        while run.at_work.load(Ordering::Relaxed) < threads
            && !handles.iter().any(|one| one.is_finished())
        {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(warm_up);
        run.counts.store(true, Ordering::Relaxed);
        let start = Instant::now();
        while start.elapsed() < time {
            thread::sleep(Duration::from_millis(1));
        }
        run.over.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        for handle in handles {
            let ended = handle.join();
            samples.extend(ended.map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(samples)
    })
}

pub fn measure(work: &Work<'_>, raw: &RawPool<'_>) -> anyhow::Result<Vec<Threads>> {
    let ours = Ours(GpuMemoryPool::on(work.device, LIMIT)?);
    let milliseconds = if work.quick { (10, 200) } else { (200, 500) };
    let times = (
        Duration::from_millis(milliseconds.0),
        Duration::from_millis(milliseconds.1),
    );
    let mut rows = Vec::new();
    for threads in [1, 2, 4, 8, 16] {
        work.progress
            .set_message(format!("pairs on {threads} threads"));
        // Three times in turn, so that one disturbance does not decide.
        let (mut of_ours, mut of_raw) = (Vec::new(), Vec::new());
        for _ in 0..if work.quick { 1 } else { 3 } {
            of_ours.extend(together(&ours, threads, times)?);
            of_raw.extend(together(raw, threads, times)?);
        }
        ensure!(
            !of_ours.is_empty() && !of_raw.is_empty(),
            "no batch on {threads} threads ended in time"
        );
        let (of_ours, of_raw) = (Samples::of(of_ours), Samples::of(of_raw));
        rows.push(Threads {
            threads,
            ours_ns: of_ours.at(0.5),
            // The mean shows the cost of disturbances, the median that of contention.
            ours_mean_ns: of_ours.mean(),
            ours_p99_of_batches_ns: of_ours.at(0.99),
            raw_pool_ns: of_raw.at(0.5),
            raw_pool_mean_ns: of_raw.mean(),
            pairs_in_a_batch: BATCH,
            batches: of_ours.len(),
        });
        work.progress.inc(1);
    }
    Ok(rows)
}

pub fn table(rows: &[Threads]) -> String {
    let mut table = format!(
        "{:<16} {:>9} {:>9} {:>10}   {:>9}\n",
        "4 KiB, threads", "ours", "raw pool", "ours mean", "ours p99"
    );
    for row in rows {
        let figures = [
            row.ours_ns,
            row.raw_pool_ns,
            row.ours_mean_ns,
            row.ours_p99_of_batches_ns,
        ];
        let [ours, raw, mean, p99] = figures.map(duration);
        table += &format!(
            "{:<16} {ours:>9} {raw:>9} {mean:>10}   {p99:>9}\n",
            row.threads
        );
    }
    table
}

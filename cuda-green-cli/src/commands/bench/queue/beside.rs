//! A request in one partition, with and without tasks of another.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use cuda_green::{ContextId, SmPartitionManager};

use super::{
    figures::Beside,
    lengths::Lengths,
    own::Own,
    times::{Found, Times, Trips},
};
use crate::commands::bench::{
    contexts::config,
    load::{Load, ONE_KERNEL},
    run::Work,
    samples::Samples,
};

/// The tasks that the other partition submits, in millions a second.
pub const WANTED: f64 = 5.0;

pub fn measure(work: &Work<'_>, lengths: &Lengths) -> anyhow::Result<Beside> {
    let device = work.device;
    let manager = SmPartitionManager::on(device)?;
    let total = device.properties().multiprocessor_count;
    let quarter = (total / 4 / 8 * 8).max(1);
    let embedding = manager.create_context(ContextId::Embedding, config(quarter))?;
    let left = manager.allocation_status().available_sms;
    let dream = manager.create_context(ContextId::Dream, config(left))?;
    let load = Load::of(device, lengths.requests, lengths.request_time)?;
    let (requests, own) = (
        embedding.create_stream()?,
        Own::new(device, dream.create_stream()?)?,
    );
    let times = |samples: Samples| Times::of(samples.nanoseconds().collect::<Vec<_>>());
    let (mut alone, mut beside, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..lengths.repeats {
        alone.push(times(load.measure(ONE_KERNEL, &requests, None)?)?);
        let stop = AtomicBool::new(false);
        let (found, rate) = thread::scope(|scope| -> anyhow::Result<_> {
            let tasks = scope.spawn(|| own.paced(WANTED * 1e6, &stop));
            let found = load.measure(ONE_KERNEL, &requests, None);
            stop.store(true, Ordering::Relaxed);
            let rate = tasks.join();
            let rate = rate.map_err(|_| anyhow::anyhow!("the thread of the tasks panicked"))??;
            Ok((found?, rate))
        })?;
        beside.push(times(found)?);
        rates.push(rate / 1e6);
    }
    let ratios = beside
        .iter()
        .zip(&alone)
        .map(|(beside, alone)| beside.at(0.99) / alone.at(0.99));
    let is_real = !device.driver().is_simulated();
    let trips = |all: &[Times]| Trips::of(&all.iter().collect::<Vec<_>>());
    Ok(Beside {
        request: format!("a request of {} blocks", ONE_KERNEL.blocks),
        partition_sms: embedding.sm_count(),
        wanted_m_per_s: WANTED,
        found_m_per_s: Found::of(rates),
        p99_to_alone: is_real.then(|| Found::of(ratios.collect())),
        alone: trips(&alone)?,
        beside: trips(&beside)?,
    })
}

//! Rebalances with work in flight: each kernel runs where it was promised, and none is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use cuda_green::{
    ContextId, Driver, Error, GpuBuffer, HandOff, LaunchConfig, RebalanceHint, Result,
    SmPartitionManager, kernels,
};

use super::rebalances;
use crate::{
    Case,
    support::{kernel, quad, sm_ids, times},
};

pub const CASES: &[Case] = &[
    ("rebalance/kernels_run_where_they_were_promised", promised),
    ("rebalance/many_threads_launch_meanwhile", many_threads),
];

/// The SMs of every (name, size) that rebalancing can give, seen while nothing else runs.
fn promises(manager: &SmPartitionManager) -> Result<BTreeMap<(ContextId, u32), BTreeSet<u32>>> {
    let mut promises = BTreeMap::new();
    for hint in RebalanceHint::ALL {
        manager.rebalance(hint)?;
        for id in ContextId::ALL {
            let context = manager.get_context(id)?;
            promises.insert((id, context.sm_count()), sm_ids(&context)?);
        }
    }
    Ok(promises)
}

const IDS: usize = 1024;

fn ids_in(buffer: &GpuBuffer) -> Result<BTreeSet<u32>> {
    let mut bytes = vec![0; IDS * 4];
    buffer.copy_to(&mut bytes)?;
    let counts = bytes.chunks_exact(4).zip(0u32..);
    Ok(counts
        .filter(|(count, _)| count.iter().any(|byte| *byte != 0))
        .map(|(_, id)| id)
        .collect())
}

/// Random rebalances with kernels in flight: each kernel's SMs are those that its name had when it was
/// launched.
fn promised(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    let promises = promises(&manager)?;
    let kernel = kernel(&device, kernels::SM_IDS)?;
    let streams = ContextId::ALL
        .iter()
        .map(|id| manager.create_stream(*id))
        .collect::<Result<Vec<_>>>()?;
    let pool = cuda_green::GpuMemoryPool::on(&device, u64::MAX)?;
    let mut random = 12345u64;
    let mut next = |n: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let mut in_flight = Vec::new();
    let rebalances = times(driver, 400, 1000);
    for _ in 0..rebalances {
        for (id, stream) in ContextId::ALL.iter().zip(&streams) {
            if next(3) == 0 {
                let buffer = pool.allocate(IDS * 4)?;
                buffer.fill(0)?;
                let size = stream.with(|stream| {
                    let context = stream.context();
                    let shape = LaunchConfig::linear(context.sm_count() * 4, 1024);
                    let args: [&dyn cuda_green::KernelArg; 3] =
                        [&buffer.address(), &(IDS as u32), &20_000u32];
                    // SAFETY: the kernel takes so many counters, their number and a time; the buffer is
                    // kept until the kernel has ended.
                    unsafe { stream.launch(&kernel, &shape, &args)? };
                    Ok(context.sm_count())
                })?;
                in_flight.push((*id, size, buffer));
            }
        }
        let hint = RebalanceHint::ALL[next(4) as usize];
        let hand_off = if next(4) == 0 {
            HandOff::Relaxed
        } else {
            HandOff::Strict
        };
        manager.rebalance_with(hint, hand_off)?;
        if in_flight.len() > 64 {
            streams.iter().try_for_each(|stream| stream.synchronize())?;
            for (id, size, buffer) in in_flight.drain(..) {
                let ids = ids_in(&buffer)?;
                assert!(!ids.is_empty(), "the kernel was lost");
                assert!(
                    ids.is_subset(&promises[&(id, size)]),
                    "{id:?} with {size} SMs ran on {ids:?}"
                );
            }
        }
    }
    streams.iter().try_for_each(|stream| stream.synchronize())
}

/// Threads launch while another rebalances: nothing fails, nothing is lost.
fn many_threads(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let kernel = kernel(&device, kernels::SM_IDS)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (manager, kernel, device, stop) = (&manager, &kernel, &device, &stop);
                scope.spawn(move || -> Result<()> {
                    let stream = manager.create_stream(ContextId::ALL[thread])?;
                    let counts =
                        cuda_green::GpuMemoryPool::on(device, u64::MAX)?.allocate(IDS * 4)?;
                    counts.fill(0)?;
                    let mut launched = 0u32;
                    while !stop.load(Ordering::Relaxed) || launched == 0 {
                        // SAFETY: the kernel takes so many counters, their number and a time; the
                        // buffer is kept until the kernel has ended.
                        unsafe {
                            stream.launch(
                                kernel,
                                &LaunchConfig::linear(8, 64),
                                &[&counts.address(), &(IDS as u32), &1000u32],
                            )?;
                        }
                        launched += 1;
                        if launched.is_multiple_of(32) {
                            stream.synchronize()?;
                        }
                    }
                    stream.synchronize()?;
                    let mut bytes = vec![0; IDS * 4];
                    counts.copy_to(&mut bytes)?;
                    let words = bytes
                        .chunks_exact(4)
                        .map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
                    assert_eq!(
                        words.sum::<u32>(),
                        launched * 8,
                        "every block of every launch ran"
                    );
                    Ok(())
                })
            })
            .collect();
        for index in 0..times(driver, 200, 1000) {
            match manager.rebalance(RebalanceHint::ALL[index % 4]) {
                Err(Error::Unsupported { .. }) => {}
                result => result.unwrap(),
            }
        }
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    })
}

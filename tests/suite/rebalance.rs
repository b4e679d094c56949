//! Rebalancing: who gets what, that nothing in flight is lost, and that no SM is shared in a strict hand-off.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use cuda_green::{
    ContextId, Driver, Error, Event, GpuBuffer, GreenContext, HandOff, Kernel, LaunchConfig,
    Module, RebalanceHint, Result, SmPartitionManager, Stream, sys,
};

use crate::{
    Case,
    support::{assert_disjoint, contexts, is_partitioned, quad, sm_ids, times},
};

pub const CASES: &[Case] = &[
    ("rebalance/gives_to_those_who_need_it", sizes),
    ("rebalance/there_and_back_is_the_same", there_and_back),
    ("rebalance/old_drivers_say_so", old_drivers),
    ("rebalance/what_was_handed_out_stays_valid", stays_valid),
    ("rebalance/a_strict_hand_off_waits_on_the_gpu", strict),
    (
        "rebalance/a_strict_hand_off_holds_for_later_threads",
        strict_for_later_threads,
    ),
    (
        "rebalance/a_strict_hand_off_covers_a_relaxed_one_before_it",
        strict_after_relaxed,
    ),
    ("rebalance/memory_limits_hold_across_it", memory),
    ("rebalance/kernels_run_where_they_were_promised", promised),
    ("rebalance/many_threads_launch_meanwhile", many_threads),
    ("rebalance/what_is_kept_is_counted_and_bounded", bounded),
];

const KERNELS: &str = include_str!("../../cuda-green/src/kernels/kernels.ptx");

fn rebalances(driver: &Driver) -> bool {
    driver.version() >= cuda_green::CudaVersion::new(12, 5)
}

fn sms(manager: &SmPartitionManager) -> Vec<u32> {
    manager
        .allocation_status()
        .contexts
        .iter()
        .map(|context| context.sm_count)
        .collect()
}

fn sizes(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (_, manager) = quad(driver)?;
    let base = sms(&manager);
    let status = manager.allocation_status();
    for hint in RebalanceHint::ALL {
        manager.rebalance(hint)?;
        let after = sms(&manager);
        assert_eq!(
            after.iter().sum::<u32>(),
            base.iter().sum::<u32>(),
            "{hint:?}: {after:?}"
        );
        assert!(
            after[0] >= base[0],
            "Embedding is not preemptible: {after:?}"
        );
        let favoured = match hint {
            RebalanceHint::EmbeddingHeavy => Some(0),
            RebalanceHint::DreamActive => Some(1),
            RebalanceHint::TrainingActive => Some(2),
            RebalanceHint::Balanced => None,
        };
        for (index, (after, base)) in after.iter().zip(&base).enumerate() {
            match favoured {
                Some(favoured) if favoured == index => assert!(after > base, "{hint:?}"),
                Some(_) if index > 0 => assert!(after < base && *after * 3 >= *base, "{hint:?}"),
                _ => assert_eq!(after, base, "{hint:?}"),
            }
        }
        let sets = contexts(&manager)?
            .iter()
            .map(sm_ids)
            .collect::<Result<Vec<_>>>()?;
        assert_disjoint(&sets);
        let now = manager.allocation_status();
        assert_eq!(
            (now.available_sms, now.stranded_sms),
            (status.available_sms, status.stranded_sms)
        );
    }
    assert_eq!(sms(&manager), base);
    Ok(())
}

fn there_and_back(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (_, manager) = quad(driver)?;
    let kept = manager.provision_rebalance()?;
    assert!((8..=16).contains(&kept), "{kept} contexts for four hints");
    let green = || {
        driver
            .simulator()
            .map(|simulator| simulator.live_objects().green_contexts)
    };
    let made = green();
    let mut seen = BTreeMap::new();
    for round in 0..times(driver, 50, 20) {
        for hint in RebalanceHint::ALL.iter().cycle().skip(round % 4).take(5) {
            manager.rebalance(*hint)?;
            assert_eq!(
                seen.entry(*hint).or_insert_with(|| sms(&manager)),
                &sms(&manager)
            );
        }
    }
    assert_eq!(green(), made, "provisioned contexts are used again");
    // Whatever the hint, contexts can be destroyed, and what they had on loan comes back.
    manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
    for id in ContextId::ALL {
        manager.destroy_context(id)?;
    }
    assert_eq!(manager.allocation_status().allocated_sms, 0);
    manager.init_quad_partition()
}

fn old_drivers(driver: &Driver) -> Result<()> {
    if rebalances(driver) {
        return Ok(());
    }
    let (_, manager) = quad(driver)?;
    let before = manager.allocation_status();
    let result = manager.rebalance(RebalanceHint::EmbeddingHeavy);
    if is_partitioned(driver) {
        assert!(
            matches!(result, Err(Error::Unsupported { .. })),
            "{result:?}"
        );
    } else {
        result?; // everyone has everything
    }
    assert_eq!(manager.allocation_status(), before);
    manager.rebalance(RebalanceHint::Balanced)
}

fn stays_valid(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    let old = manager.get_context(ContextId::Dream)?;
    let before = sm_ids(&old)?;
    let stream = old.create_stream()?;
    let guard = old.activate()?;
    manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
    let new = manager.get_context(ContextId::Dream)?;
    assert!(new.sm_count() < old.sm_count());
    guard.close()?;
    let event = Event::new(&device)?;
    stream.record(&event)?;
    stream.synchronize()?;
    assert_eq!(sm_ids(&old)?, before, "a context stays where it is");
    drop((old, new));
    let refused = manager.destroy_context(ContextId::Dream);
    assert!(
        matches!(refused, Err(Error::ContextInUse { holders: 1, .. })),
        "{refused:?}"
    );
    drop(stream);
    manager.destroy_context(ContextId::Dream)?;
    // A favoured context that is not there is an error; the others can still be favoured.
    let missing = manager.rebalance(RebalanceHint::DreamActive);
    assert!(matches!(missing, Err(Error::NoSuchContext { .. })));
    manager.rebalance(RebalanceHint::TrainingActive)?;
    let sets = [
        ContextId::Embedding,
        ContextId::Training,
        ContextId::Reserved,
    ]
    .iter()
    .map(|id| sm_ids(&manager.get_context(*id)?))
    .collect::<Result<Vec<_>>>()?;
    assert_disjoint(&sets);
    Ok(())
}

/// Work of a context that gained SMs ends after the old work on those, if strict; before it, if relaxed.
fn strict(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    manager.provision_rebalance()?;
    let module = Module::load_ptx(&device, KERNELS)?;
    let burn = module.kernel("cuda_green_burn")?;
    for (hand_off, waits) in [(HandOff::Strict, true), (HandOff::Relaxed, false)] {
        manager.rebalance(RebalanceHint::Balanced)?;
        let dream = manager.get_context(ContextId::Dream)?;
        let old = dream.create_stream()?;
        let (old_end, new_end) = (Event::timed(&device)?, Event::timed(&device)?);
        // About 40 ms in a quarter that is filled twice over.
        let long = LaunchConfig::linear(dream.sm_count() * 4, 1024);
        // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
        unsafe { old.launch(&burn, &long, &[&0u64, &1_400_000u32])? };
        old.record(&old_end)?;
        manager.rebalance_with(RebalanceHint::EmbeddingHeavy, hand_off)?;
        let new = manager.get_context(ContextId::Embedding)?.create_stream()?;
        // SAFETY: as above.
        unsafe { new.launch(&burn, &LaunchConfig::linear(1, 32), &[&0u64, &10u32])? };
        new.record(&new_end)?;
        new.synchronize()?;
        assert_eq!(old_end.is_done()?, waits, "{hand_off:?}");
        old.synchronize()?;
    }
    Ok(())
}

/// A few dozen milliseconds of work on all SMs of a context, and its end.
fn long_work(context: &GreenContext, burn: &Kernel) -> Result<(Stream, Event)> {
    let stream = context.create_stream()?;
    let end = Event::timed(context.device())?;
    let shape = LaunchConfig::linear(context.sm_count() * 4, 1024);
    // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
    unsafe { stream.launch(burn, &shape, &[&0u64, &1_400_000u32])? };
    stream.record(&end)?;
    Ok((stream, end))
}

/// Runs next to nothing in whatever context is current on this thread, as a foreign library would, and
/// waits for it.
fn work_in_current(driver: &Driver, burn: &Kernel) {
    let (api, mut stream) = (driver.api(), std::ptr::null_mut());
    let (mut nowhere, mut rounds) = (0u64, 10u32);
    let mut args = [
        std::ptr::from_mut(&mut nowhere).cast(),
        std::ptr::from_mut(&mut rounds).cast(),
    ];
    // SAFETY: the pointers are valid for what is written; the stream is live until it is destroyed; the
    // kernel takes an address, to which it never comes to write, and a number of rounds.
    unsafe {
        let non_blocking = sys::CUstream_flags::CU_STREAM_NON_BLOCKING.0;
        let made = api.cuStreamCreateWithPriority(&mut stream, non_blocking, 0);
        made.unwrap().ok().unwrap();
        let (args, extra) = (args.as_mut_ptr(), std::ptr::null_mut());
        let kernel = burn.raw();
        let launched = api.cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, args, extra);
        launched.unwrap().ok().unwrap();
        api.cuStreamSynchronize(stream).unwrap().ok().unwrap();
        api.cuStreamDestroy_v2(stream).unwrap().ok().unwrap();
    }
}

/// A thread that comes to a context only after a hand-off, and gets a sibling there, waits as those do that
/// were there before.
fn strict_for_later_threads(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    let module = Module::load_ptx(&device, KERNELS)?;
    let burn = module.kernel("cuda_green_burn")?;
    manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
    // Its main context is this thread's from here on.
    manager.activate(ContextId::Embedding)?.close()?;
    manager.rebalance(RebalanceHint::Balanced)?;
    let (old, old_end) = long_work(&manager.get_context(ContextId::Dream)?, &burn)?;
    manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
    let later = || {
        if let Some(simulator) = driver.simulator() {
            simulator.start_trace();
        }
        let guard = manager.activate(ContextId::Embedding)?;
        if let Some(simulator) = driver.simulator() {
            // Drivers were seen to wait for everything when they make a context. None promises that.
            let calls = simulator.take_trace();
            let count = |name| calls.iter().filter(|call| call.entry_point == name).count();
            let siblings = count("cuGreenCtxCreate");
            assert_eq!(siblings, usize::from(!device.capabilities().shared_current));
            assert!(
                count("cuGreenCtxWaitEvent") >= 3 * siblings,
                "it waits for each context that gave it SMs: {calls:?}"
            );
        }
        work_in_current(driver, &burn);
        guard.close()
    };
    std::thread::scope(|scope| scope.spawn(later).join().unwrap())?;
    assert!(old_end.is_done()?, "the later thread did not wait");
    old.synchronize()
}

/// Work that a relaxed hand-off let run on is still old work at the next strict one.
fn strict_after_relaxed(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    manager.provision_rebalance()?;
    let module = Module::load_ptx(&device, KERNELS)?;
    let burn = module.kernel("cuda_green_burn")?;
    let (old, old_end) = long_work(&manager.get_context(ContextId::Dream)?, &burn)?;
    manager.rebalance_with(RebalanceHint::EmbeddingHeavy, HandOff::Relaxed)?;
    manager.rebalance(RebalanceHint::TrainingActive)?;
    let training = manager.get_context(ContextId::Training)?;
    {
        let _current = training.activate()?;
        work_in_current(driver, &burn);
    }
    assert!(old_end.is_done()?, "it shared SMs with older work");
    old.synchronize()
}

fn memory(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let before = manager.get_context(ContextId::Embedding)?;
    let buffer = before.memory()?.allocate(1 << 20)?;
    match manager.rebalance(RebalanceHint::EmbeddingHeavy) {
        Err(Error::Unsupported { .. }) => {}
        result => result?,
    }
    let after = manager.get_context(ContextId::Embedding)?;
    assert_eq!(after.memory()?.used(), 1 << 20, "one name, one limit");
    drop((before, after));
    assert_eq!(
        manager.allocation_status().contexts[0].memory_used_bytes,
        1 << 20
    );
    drop(buffer);
    assert_eq!(manager.allocation_status().contexts[0].memory_used_bytes, 0);
    Ok(())
}

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
    let module = Module::load_ptx(&device, KERNELS)?;
    let kernel = module.kernel("cuda_green_sm_ids")?;
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
    let module = Module::load_ptx(&device, KERNELS)?;
    let kernel = module.kernel("cuda_green_sm_ids")?;
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

/// How many green contexts are kept is said, has a limit, and what is retired makes room.
fn bounded(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    let kept = || manager.allocation_status().green_contexts;
    let real = || {
        driver
            .simulator()
            .map_or_else(kept, |simulator| simulator.live_objects().green_contexts)
    };
    assert_eq!((kept(), real()), (4, 4));
    let all = manager.provision_rebalance()?;
    assert_eq!((kept(), real()), (all, all));
    let bytes = manager.allocation_status().green_context_bytes;
    assert_eq!(bytes, all as u64 * cuda_green::GREEN_CONTEXT_BYTES);
    assert_eq!(manager.release_retired()?, all - 4);
    assert_eq!((kept(), real()), (4, 4));
    // A change needs the old contexts and the new: with room for one change, any number of them is possible,
    // also with streams that follow the names.
    let streams = ContextId::ALL
        .iter()
        .map(|id| manager.create_stream(*id))
        .collect::<Result<Vec<_>>>()?;
    manager.set_context_limit(Some(8));
    for round in 0..times(driver, 3, 2) {
        for hint in RebalanceHint::ALL {
            manager.rebalance(hint)?;
            assert!(kept() <= 8 && kept() == real(), "{hint:?} of round {round}");
            streams
                .iter()
                .try_for_each(|stream| stream.record(&Event::new(&device)?))?;
            let sets = contexts(&manager)?
                .iter()
                .map(sm_ids)
                .collect::<Result<Vec<_>>>()?;
            assert_disjoint(&sets);
        }
    }
    // Without, a change that needs more is refused and changes nothing.
    manager.release_retired()?;
    manager.set_context_limit(Some(4));
    let (before, pieces) = (manager.allocation_status(), sms(&manager));
    let refused = manager.rebalance(RebalanceHint::EmbeddingHeavy);
    assert!(
        matches!(
            refused,
            Err(Error::TooManyContexts { limit: 4, kept: 4, missing }) if missing > 0
        ),
        "{refused:?}"
    );
    assert_eq!(
        (manager.allocation_status(), sms(&manager)),
        (before, pieces)
    );
    // What is used is not given up.
    manager.set_context_limit(Some(8));
    let dream = manager.get_context(ContextId::Dream)?;
    let stream = dream.create_stream()?;
    drop(dream);
    manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
    let retired = kept() - 4;
    assert_eq!(manager.release_retired()?, retired - 1);
    stream.record(&Event::new(&device)?)?;
    stream.synchronize()?;
    drop(stream);
    assert_eq!(manager.release_retired()?, 1);
    // Threads' siblings count, as they take memory too.
    let before = kept();
    let context = manager.get_context(ContextId::Embedding)?;
    let guard = context.activate()?;
    std::thread::scope(|scope| {
        scope
            .spawn(|| context.activate().unwrap().close().unwrap())
            .join()
            .unwrap();
    });
    guard.close()?;
    let sibling = usize::from(!device.capabilities().shared_current);
    assert_eq!((kept(), real()), (before + sibling, before + sibling));
    Ok(())
}

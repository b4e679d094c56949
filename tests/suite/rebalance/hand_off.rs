//! Hand-offs: in a strict one no SM is shared by old work and new.

use cuda_green::{
    ContextId, Driver, Event, GreenContext, HandOff, Kernel, LaunchConfig, RebalanceHint, Result,
    Stream, kernels, sys,
};

use super::rebalances;
use crate::{
    Case,
    support::{kernel, quad},
};

pub const CASES: &[Case] = &[
    ("rebalance/a_strict_hand_off_waits_on_the_gpu", strict),
    (
        "rebalance/a_strict_hand_off_holds_for_later_threads",
        strict_for_later_threads,
    ),
    (
        "rebalance/a_strict_hand_off_covers_a_relaxed_one_before_it",
        strict_after_relaxed,
    ),
];

/// Work of a context that gained SMs ends after the old work on those, if strict; before it, if relaxed.
fn strict(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    manager.provision_rebalance()?;
    let burn = kernel(&device, kernels::BURN)?;
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
    let burn = kernel(&device, kernels::BURN)?;
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
    let burn = kernel(&device, kernels::BURN)?;
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

//! Rebalancing: who gets what, what stays valid, and what is kept.

pub mod hand_off;
pub mod in_flight;

use std::collections::BTreeMap;

use cuda_green::{
    CaptureMode, ContextId, Driver, Error, Event, HandOff, RebalanceHint, Result,
    SmPartitionManager,
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
    ("rebalance/memory_limits_hold_across_it", memory),
    ("rebalance/what_is_kept_is_counted_and_bounded", bounded),
    ("rebalance/does_not_spoil_a_capture", beside_a_capture),
];

/// A strict hand-off records contexts, which would spoil a capture of a stream there: it is refused, and the capture
/// goes on. So is what else records the context or makes it wait.
fn beside_a_capture(driver: &Driver) -> Result<()> {
    if !rebalances(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    manager.provision_rebalance()?;
    let (event, foreign) = (Event::new(&device)?, Event::new(&device)?);
    let dream = manager.get_context(ContextId::Dream)?;
    let (stream, joined) = (dream.create_stream()?, dream.create_stream()?);
    let training = manager.get_context(ContextId::Training)?;
    let forked = training.create_stream()?;
    let other = manager.get_context(ContextId::Embedding)?;
    let spared = |result: Result<()>| {
        assert!(matches!(result, Err(Error::ContextInCapture)), "{result:?}");
    };
    let before = sms(&manager);
    let graph = stream.capture(CaptureMode::default(), |capture| {
        spared(manager.rebalance(RebalanceHint::TrainingActive));
        spared(dream.record_event(&event));
        spared(dream.wait_event(&event));
        other.record_event(&event)?;
        training.record_event(&event)?;
        capture.fork(&forked)?;
        spared(training.record_event(&event));
        capture.join(&forked)?;
        // One that joins by an event alone, past `fork`.
        stream.record(&foreign)?;
        joined.wait(&foreign)?;
        capture.join(&joined)?;
        assert_eq!(sms(&manager), before);
        manager.rebalance_with(RebalanceHint::DreamActive, HandOff::Relaxed)
    })?;
    drop(graph.instantiate()?);
    manager.rebalance(RebalanceHint::TrainingActive)?;
    dream.record_event(&event)?;
    event.synchronize()
}

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
            _ => None, // Balanced
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
    // All or nothing: none is made that would have to make room for another.
    manager.set_context_limit(Some(all - 1));
    let refused = manager.provision_rebalance();
    assert!(
        matches!(
            refused,
            Err(Error::TooManyContexts { limit, kept: 4, missing }) if limit == all - 1 && missing == all - 4
        ),
        "{refused:?}"
    );
    assert_eq!((kept(), real()), (4, 4));
    manager.set_context_limit(Some(all));
    assert_eq!(manager.provision_rebalance()?, all);
    assert_eq!(manager.release_retired()?, all - 4);
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

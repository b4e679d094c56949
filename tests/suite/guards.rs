//! Guards: what was current is current again, on every path.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use cuda_green::{ContextGuard, ContextId, Driver, Error, RebalanceHint, Result, sys};

use crate::{
    Case,
    support::{contexts, current, is_partitioned, quad, sm_ids},
};

pub const CASES: &[Case] = &[
    ("guards/restore_in_any_order", any_order),
    ("guards/restore_in_a_panic", in_a_panic),
    ("guards/tasks_that_take_turns_are_told", taking_turns),
    ("guards/with_current_takes_a_closure", with_current),
    ("guards/restore_what_foreign_code_changed", foreign_code),
    (
        "guards/restore_a_context_that_was_there_before",
        foreign_before,
    ),
    ("guards/a_forgotten_one_leaves_nothing_dangling", forgotten),
    ("guards/threads_share_sms_not_contexts", siblings),
    ("guards/provisioned_threads_make_nothing", provisioned),
    ("guards/set_current_holds_until_changed", set_current),
];

/// All orders of dropping four nested guards: the top one is current while it lives, and nothing at the end.
fn any_order(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let contexts = contexts(&manager)?;
    for order in permutations(4) {
        let mut guards: Vec<Option<ContextGuard<'_>>> = Vec::new();
        for context in &contexts {
            let guard = context.activate()?;
            assert_eq!(current(driver), guard.raw_context() as usize);
            guards.push(Some(guard));
        }
        for dropped in &order {
            // That one ended below another is told.
            let is_on_top = guards[dropped + 1..].iter().all(Option::is_none);
            match guards[*dropped].take().unwrap().close() {
                Ok(()) if is_on_top => {}
                Err(Error::GuardNotOnTop) if !is_on_top => {}
                other => panic!("{order:?} at {dropped}: {other:?}"),
            }
            // Those above the last live one are unwound; what it made current is.
            let top = guards.iter().rposition(Option::is_some);
            let expected = top.map_or(0, |top| {
                guards[top].as_ref().unwrap().raw_context() as usize
            });
            let below = guards.iter().take(top.unwrap_or(0)).all(Option::is_some);
            if below || top.is_none() {
                assert_eq!(current(driver), expected, "{order:?} at {dropped}");
            }
        }
        assert_eq!(current(driver), 0, "{order:?}");
    }
    // And they really end: nothing is in use any more.
    drop(contexts);
    for id in ContextId::ALL {
        manager.destroy_context(id)?;
    }
    Ok(())
}

/// Two tasks on one thread hold guards while the other one runs: the one that ends below the other's is told so.
fn taking_turns(driver: &Driver) -> Result<()> {
    /// Lets another task run once.
    struct Turn(bool);

    impl Future for Turn {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }

    let (_, manager) = quad(driver)?;
    let task = |id| {
        let manager = &manager;
        Box::pin(async move {
            let guard = manager.activate(id)?;
            Turn(false).await;
            guard.close()
        })
    };
    let mut tasks = [ContextId::Embedding, ContextId::Dream].map(task);
    let mut context = Context::from_waker(Waker::noop());
    let mut run = |task: usize| tasks[task].as_mut().poll(&mut context);
    assert!(run(0).is_pending() && run(1).is_pending());
    let first = run(0);
    assert!(
        matches!(first, Poll::Ready(Err(Error::GuardNotOnTop))),
        "{first:?}"
    );
    let second = run(1);
    assert!(matches!(second, Poll::Ready(Ok(()))), "{second:?}");
    assert_eq!(current(driver), 0);
    drop(tasks);
    manager.destroy_context(ContextId::Embedding)?;
    manager.destroy_context(ContextId::Dream)
}

fn with_current(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let dream = manager.get_context(ContextId::Dream)?;
    let training = manager.get_context(ContextId::Training)?;
    let outer = dream.with_current(|| {
        let outer = current(driver);
        assert_eq!(outer, dream.raw_context().unwrap() as usize);
        let inner = training.with_current(|| current(driver)).unwrap();
        assert_eq!(inner, training.raw_context().unwrap() as usize);
        assert_eq!(current(driver), outer);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            training.with_current(|| std::panic::resume_unwind(Box::new("as intended")))
        }));
        assert!(panicked.is_err());
        assert_eq!(current(driver), outer);
        // A guard that is left behind inside is told.
        let mut left = None;
        let closed = training.with_current(|| left = Some(dream.activate().unwrap()));
        assert!(matches!(closed, Err(Error::GuardNotOnTop)), "{closed:?}");
        drop(left);
        outer
    })?;
    assert_ne!(outer, 0);
    assert_eq!(current(driver), 0);
    Ok(())
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    permutations(n - 1)
        .into_iter()
        .flat_map(|rest| {
            (0..n).map(move |at| {
                let mut order = rest.clone();
                order.insert(at, n - 1);
                order
            })
        })
        .collect()
}

fn in_a_panic(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let outer = manager.activate(ContextId::Dream)?;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _one = manager.activate(ContextId::Embedding).unwrap();
        let _two = manager.activate(ContextId::Training).unwrap();
        panic!("as intended");
    }));
    std::panic::set_hook(hook);
    assert!(panicked.is_err());
    assert_eq!(current(driver), outer.raw_context() as usize);
    outer.close()?;
    assert_eq!(current(driver), 0);
    manager.destroy_context(ContextId::Embedding)
}

/// Foreign code sets, pushes or pops inside a guard: the guard reports it, and what was before is current.
fn foreign_code(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let primary = device.raw_primary_context()?;
    let contexts = contexts(&manager)?;
    let api = driver.api();
    let set = || {
        // SAFETY: the device holds the primary context.
        unsafe { api.cuCtxSetCurrent(primary) }
            .unwrap()
            .ok()
            .unwrap();
    };
    let push = || {
        // SAFETY: as above.
        unsafe { api.cuCtxPushCurrent_v2(primary) }
            .unwrap()
            .ok()
            .unwrap();
    };
    let pop = || {
        let mut popped = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        unsafe { api.cuCtxPopCurrent_v2(&mut popped) }
            .unwrap()
            .ok()
            .unwrap();
    };
    let set_null = || {
        // SAFETY: null takes the current context off.
        unsafe { api.cuCtxSetCurrent(std::ptr::null_mut()) }
            .unwrap()
            .ok()
            .unwrap();
    };
    let twice = || {
        push();
        push();
    };
    let popped_and_pushed = || {
        pop();
        push();
    };
    let all_popped = || {
        while current(driver) != 0 {
            pop();
        }
    };
    if !is_partitioned(driver) {
        return Ok(()); // ours is the primary context then, as theirs is, so changes cannot be told
    }
    let changes: [&dyn Fn(); 7] = [
        &set,
        &push,
        &pop,
        &set_null,
        &twice,
        &popped_and_pushed,
        &all_popped,
    ];
    // What is current before: nothing, another guard's, what foreign code set inside another guard, or what
    // it set with no guard at all.
    for (index, change) in changes.iter().enumerate() {
        for (outer, foreign) in [(false, false), (true, false), (true, true), (false, true)] {
            let what = format!("change {index}, a guard before: {outer}, foreign code: {foreign}");
            let outer = outer.then(|| contexts[3].activate()).transpose()?;
            if foreign {
                push();
            }
            let expected = current(driver);
            let guard = contexts[0].activate()?;
            change();
            let closed = guard.close();
            assert!(
                matches!(closed, Err(Error::ForeignContext)),
                "{what}: {closed:?}"
            );
            assert_eq!(current(driver), expected, "{what}");
            if foreign {
                all_popped();
                drop(outer);
            } else if let Some(outer) = outer {
                outer.close()?;
            }
            assert_eq!(current(driver), 0, "{what}");
        }
    }
    drop(contexts);
    for id in ContextId::ALL {
        manager.destroy_context(id)?;
    }
    Ok(())
}

fn foreign_before(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let primary = device.raw_primary_context()?;
    // SAFETY: the device holds the primary context.
    unsafe { driver.api().cuCtxSetCurrent(primary) }
        .unwrap()
        .ok()
        .unwrap();
    drop(manager.activate(ContextId::Dream)?);
    assert_eq!(current(driver), primary as usize);
    let outer = manager.activate(ContextId::Dream)?;
    let inner = manager.activate(ContextId::Embedding)?;
    drop(outer);
    drop(inner);
    assert_eq!(current(driver), primary as usize);
    // SAFETY: null is allowed.
    unsafe { driver.api().cuCtxSetCurrent(std::ptr::null_mut()) }
        .unwrap()
        .ok()
        .unwrap();
    Ok(())
}

/// A forgotten guard leaves its context current; it must never be destroyed under the thread.
fn forgotten(driver: &Driver) -> Result<()> {
    if !driver.is_simulated() {
        return Ok(()); // it leaks on purpose, which the real process should not
    }
    // A driver of its own, since objects stay behind.
    let simulator = cuda_green::sim::Sim::new(driver.source().trim_start_matches("sim:"))?;
    let driver = Driver::simulated(&simulator)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (_, manager) = quad(&driver).unwrap();
            std::mem::forget(manager.activate(ContextId::Dream).unwrap());
            assert!(matches!(
                manager.destroy_context(ContextId::Dream),
                Err(Error::ContextInUse { .. })
            ));
            let context = manager.get_context(ContextId::Training).unwrap();
            let guard = context.activate().unwrap();
            let raw = guard.raw_context();
            std::mem::forget(guard);
            drop(context);
            // Nothing holds it, but it is current here: its SMs go to nobody else.
            let destroyed = manager.destroy_context(ContextId::Training);
            match destroyed {
                Err(Error::ContextInUse { holders: 1, .. }) if is_partitioned(&driver) => {}
                Ok(()) if !is_partitioned(&driver) => {}
                other => panic!("{other:?}"),
            }
            drop(manager);
            // Both are still live: the driver takes what is current.
            let mut device = 0;
            // SAFETY: the pointer is valid for the one handle that is written.
            unsafe { driver.api().cuCtxGetDevice(&mut device) }
                .unwrap()
                .ok()
                .unwrap();
            assert_eq!(current(&driver), raw as usize);
        });
    });
    Ok(())
}

/// Two threads active in one context at once: up to 13.4 each has a green context of its own, and both
/// run on the same SMs.
fn siblings(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let context = manager.get_context(ContextId::Embedding)?;
    let sms = sm_ids(&context)?;
    let distinct_contexts_needed = is_partitioned(driver) && !device.capabilities().shared_current;
    let barrier = Barrier::new(4);
    for _ in 0..3 {
        let raw: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let guard = context.activate().unwrap();
                        let nested = context.activate().unwrap();
                        assert_eq!(
                            nested.raw_context(),
                            guard.raw_context(),
                            "the same thread needs no sibling"
                        );
                        barrier.wait();
                        let raw = guard.raw_context() as usize;
                        if is_partitioned(driver) {
                            assert_eq!(sms_of_current(driver), sms.len() as u32);
                        }
                        barrier.wait();
                        raw
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let distinct: std::collections::BTreeSet<usize> = raw.into_iter().collect();
        assert_eq!(distinct.len(), if distinct_contexts_needed { 4 } else { 1 });
    }
    if let Some(simulator) = driver.simulator() {
        let siblings = simulator.live_objects().green_contexts.saturating_sub(4);
        let needed = if distinct_contexts_needed {
            3..=4
        } else {
            0..=0
        };
        assert!(
            needed.contains(&siblings),
            "{siblings} siblings: they are used again"
        );
    }
    Ok(())
}

/// Threads that were provided for find their contexts made, before and after a rebalance.
fn provisioned(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let seats = match (is_partitioned(driver), device.capabilities().shared_current) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => 4,
    };
    let kept = || manager.allocation_status().green_contexts;
    let before = kept();
    let context = || manager.get_context(ContextId::Embedding);
    assert_eq!(context()?.provision_threads(4)?, seats);
    assert_eq!(context()?.provision_threads(2)?, seats, "never fewer");
    assert_eq!(kept(), before + seats.saturating_sub(1));
    // The same threads throughout, as the first that comes to a context keeps its seat. Nothing is asserted
    // while they wait for each other.
    let (barrier, over, failed) = (
        Barrier::new(5),
        AtomicBool::new(false),
        AtomicBool::new(false),
    );
    let work = || loop {
        barrier.wait();
        if over.load(Ordering::Relaxed) {
            return;
        }
        let context = context();
        let guard = match &context {
            Ok(context) => context.activate(),
            Err(_) => Err(Error::GuardActive),
        };
        barrier.wait();
        if guard.and_then(ContextGuard::close).is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        drop(context);
        barrier.wait();
    };
    let made = || {
        let before = kept();
        for _ in 0..3 {
            barrier.wait();
        }
        kept() - before
    };
    let made_in_all = || -> Result<usize> {
        let mut in_all = made();
        if driver.version() < cuda_green::CudaVersion::new(12, 5) {
            return Ok(in_all);
        }
        manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
        in_all += made();
        manager.provision_rebalance()?;
        for hint in RebalanceHint::ALL {
            manager.rebalance(hint)?;
            in_all += made();
        }
        // One more for a context in force is one more for those that can take its place.
        context()?.provision_threads(5)?;
        manager.provision_rebalance()?;
        let before = kept();
        manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
        context()?.provision_threads(5)?;
        Ok(in_all + kept() - before)
    };
    let made_in_all = std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(work)));
        let made = made_in_all();
        over.store(true, Ordering::Relaxed);
        barrier.wait();
        made
    });
    assert_eq!((made_in_all?, failed.into_inner()), (0, false));
    Ok(())
}

/// How many SMs the driver says the current context has.
fn sms_of_current(driver: &Driver) -> u32 {
    let mut resource = sys::CUdevResource::default();
    let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    let context = current(driver) as sys::CUcontext;
    // SAFETY: the context is current, so it is live; the resource is zeroed and valid.
    unsafe {
        driver
            .api()
            .cuCtxGetDevResource(context, &mut resource, kind)
    }
    .unwrap()
    .ok()
    .unwrap();
    // SAFETY: the driver filled in an SM resource.
    unsafe { resource.__bindgen_anon_1.sm.smCount }
}

fn set_current(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    manager.set_current(ContextId::Dream)?;
    let dream = current(driver);
    assert_ne!(dream, 0);
    let guard = manager.activate(ContextId::Embedding)?;
    assert!(matches!(
        manager.set_current(ContextId::Training),
        Err(Error::GuardActive)
    ));
    assert!(matches!(manager.unset_current(), Err(Error::GuardActive)));
    drop(guard);
    assert_eq!(current(driver), dream, "the guard restores what was set");
    assert!(matches!(
        manager.destroy_context(ContextId::Dream),
        Err(Error::ContextInUse { .. })
    ));
    manager.set_current(ContextId::Training)?;
    manager.destroy_context(ContextId::Dream)?;
    manager.unset_current()?;
    assert_eq!(current(driver), 0);
    manager.destroy_context(ContextId::Training)
}

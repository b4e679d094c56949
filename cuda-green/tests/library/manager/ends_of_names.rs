//! The end of a name and of its contexts: while another has its SMs by a rebalance, while foreign code has one
//! current, and while what goes with it calls back.

use std::sync::{Arc, Mutex, mpsc};

use crate::support::ends::ends;
use cuda_green::{
    ContextId, Driver, Error, GpuMemoryPool, GreenContext, GreenContextConfig, MemoryBudget,
    MemoryPressure, PartitionGraph, RebalanceHint, SmPartitionManager,
};

/// What it had lent can be given to others once it is back, whatever rebalance brings it back.
#[test]
fn what_a_destroyed_name_had_lent_can_be_given_once_it_is_back() {
    for profile in ["sim:h200@13.0", "sim:h200@13.1", "sim:a100@12.8"] {
        for hint in [RebalanceHint::Balanced, RebalanceHint::EmbeddingHeavy] {
            let driver = Driver::open(&profile.parse().unwrap()).unwrap();
            let manager = SmPartitionManager::on(&driver.device(0).unwrap()).unwrap();
            manager.init_quad_partition().unwrap();
            let dream = manager.get_context(ContextId::Dream).unwrap().sm_count();
            manager.rebalance(RebalanceHint::TrainingActive).unwrap();
            manager.destroy_context(ContextId::Dream).unwrap();
            manager.rebalance(hint).unwrap();
            assert_eq!(manager.allocation_status().available_sms, dream);
            let config = GreenContextConfig {
                sm_count: dream,
                ..GreenContextConfig::default()
            };
            let again = manager.create_context(ContextId::Dream, config).unwrap();
            assert_eq!(again.sm_count(), dream, "{profile} {hint:?}");
        }
    }
}

/// What foreign code made current to this thread is left as it is, whether in force or retired.
#[test]
fn what_is_current_is_neither_destroyed_nor_released() {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let manager = SmPartitionManager::on(&driver.device(0).unwrap()).unwrap();
    manager.init_quad_partition().unwrap();
    let dream = manager.get_context(ContextId::Dream).unwrap();
    let raw = dream.raw_context().unwrap();
    drop(dream);
    let current = || {
        let mut current = std::ptr::null_mut();
        // SAFETY: the output is valid.
        let result = unsafe { driver.api().cuCtxGetCurrent(&mut current) };
        result.unwrap().ok().unwrap();
        current
    };
    let set = |raw| {
        // SAFETY: the context is live; null is allowed.
        let result = unsafe { driver.api().cuCtxSetCurrent(raw) };
        result.unwrap().ok().unwrap();
    };
    set(raw);
    let refused = manager.destroy_context(ContextId::Dream).unwrap_err();
    assert!(matches!(refused, Error::ContextIsCurrent), "{refused}");
    assert_eq!(current(), raw);
    assert_eq!(manager.allocation_status().contexts.len(), 4);

    manager.rebalance(RebalanceHint::TrainingActive).unwrap();
    let retired = manager.release_retired().unwrap();
    assert_eq!((retired, current()), (2, raw));
    set(std::ptr::null_mut());
    assert_eq!(manager.release_retired().unwrap(), 1);
    manager.destroy_context(ContextId::Dream).unwrap();
}

/// A context that is current is not closed, whoever lets go of it at that very moment.
#[test]
fn what_is_current_is_not_closed_while_another_thread_lets_go() {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let all = driver.device(0).unwrap().sm_resource().unwrap();
    let config = GreenContextConfig::default();
    let mut context = GreenContext::from_resources(&[all], None, config).unwrap();
    let set = |raw| {
        // SAFETY: the context is live; null is allowed.
        let result = unsafe { driver.api().cuCtxSetCurrent(raw) };
        result.unwrap().ok().unwrap();
    };
    set(context.raw_context().unwrap());
    let lent = Arc::new(Mutex::new(None));
    let other = {
        let lent = Arc::clone(&lent);
        std::thread::spawn(move || {
            while Arc::strong_count(&lent) > 1 {
                let clone: Option<GreenContext> = lent.lock().unwrap().take();
                drop(clone);
            }
        })
    };
    for _ in 0..100_000 {
        *lent.lock().unwrap() = Some(context.clone());
        let (left, refused) = context.close().unwrap_err().into_parts();
        assert!(
            matches!(
                refused,
                Error::ContextInUse { .. } | Error::ContextIsCurrent
            ),
            "{refused}"
        );
        context = left.unwrap();
    }
    drop(lent);
    other.join().unwrap();
    set(std::ptr::null_mut());
    context.close().unwrap();
}

/// Asks a manager for all that takes its locks, when it is dropped.
struct Asks(Arc<SmPartitionManager>);

impl Drop for Asks {
    fn drop(&mut self) {
        self.0.get_context(ContextId::Embedding).unwrap();
        self.0.allocation_status();
    }
}

/// A graph that is given up ends what the client had it keep, which may call the manager: where contexts are
/// released, and where a rebalance makes room for others.
#[test]
fn what_a_graph_kept_may_call_the_manager_as_it_ends() {
    ends(|| {
        let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
        let manager = Arc::new(SmPartitionManager::on(&driver.device(0).unwrap()).unwrap());
        manager.init_quad_partition().unwrap();
        let asking = manager.clone();
        let graph = PartitionGraph::new(move |capture| {
            capture.keep(Asks(asking.clone()));
            Ok(())
        });
        let stream = manager.create_stream(ContextId::Training).unwrap();
        let launch_after = |hint| {
            manager.rebalance(hint).unwrap();
            // SAFETY: nothing was captured.
            unsafe { graph.launch(&stream).unwrap() };
            graph.instantiations()
        };
        assert_eq!(launch_after(RebalanceHint::Balanced), 1);
        assert_eq!(launch_after(RebalanceHint::TrainingActive), 2);
        assert_eq!(manager.release_retired().unwrap(), 3); // Embedding is as it was
        assert_eq!(graph.instantiations(), 1);

        manager.set_context_limit(Some(7));
        assert_eq!(launch_after(RebalanceHint::Balanced), 2);
        assert_eq!(launch_after(RebalanceHint::DreamActive), 2); // that for TrainingActive had to go
        graph.clear();
    });
}

/// The end of a name's pool gives back what threads had at hand, and may tell somebody of it.
#[test]
fn who_hears_of_the_end_of_a_pool_may_call_the_manager() {
    ends(|| {
        const MIB: usize = 1 << 20;
        let device = Driver::open(&"sim:h200@13.0".parse().unwrap())
            .and_then(|driver| driver.device(0))
            .unwrap();
        let budget = MemoryBudget::new(100 << 20).unwrap();
        let manager = SmPartitionManager::on(&device)
            .and_then(|manager| manager.with_memory_budget(&budget))
            .unwrap();
        manager.init_quad_partition().unwrap();
        let other = GpuMemoryPool::within(&device, &budget, 100 << 20).unwrap();
        let pool = {
            let dream = manager.get_context(ContextId::Dream).unwrap();
            dream.memory().unwrap().clone()
        };
        // A little below 48 %, where Medium is left, but for what a thread has at hand of the pool that ends.
        let held = other.allocate(48 * MIB - (40 << 10)).unwrap();
        let at_hand = pool.allocate(64 << 10).unwrap();
        drop(pool.allocate(4 * MIB).unwrap()); // Medium is entered
        drop((at_hand, pool));
        let manager = Arc::new(manager);
        let (asking, (told, heard)) = (manager.clone(), mpsc::channel());
        budget.on_pressure(move |change| {
            asking.allocation_status();
            told.send(change.to).unwrap();
        });
        manager.destroy_context(ContextId::Dream).unwrap();
        assert_eq!(heard.try_recv(), Ok(MemoryPressure::Low));
        drop(held);
    });
}

/// A guard that was forgotten on another thread holds nothing, and its context is current there still: neither a name
/// nor a retired context ends then, and nothing is lost by trying.
#[test]
fn a_guard_forgotten_on_another_thread_keeps_names_and_retired_contexts() {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let manager = SmPartitionManager::on(&driver.device(0).unwrap()).unwrap();
    manager.init_quad_partition().unwrap();
    let (forgotten, wait) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let manager = &manager;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let dream = manager.get_context(ContextId::Dream).unwrap();
            std::mem::forget(dream.activate().unwrap());
            drop(dream);
            forgotten.send(()).unwrap();
            let _ = ended.recv();
        });
        wait.recv().unwrap();
        for _ in 0..2 {
            let refused = manager.destroy_context(ContextId::Dream).unwrap_err();
            let Error::ContextInUse { id, holders } = refused else {
                panic!("{refused}");
            };
            assert_eq!((&*id, holders), ("Dream", 1));
            manager.get_context(ContextId::Dream).unwrap();
        }
        manager.rebalance(RebalanceHint::TrainingActive).unwrap();
        // Dream's stays; those of Training and Reserved go.
        for released in [2, 0] {
            assert_eq!(manager.release_retired().unwrap(), released);
            assert_eq!(manager.allocation_status().green_contexts, 5);
        }
        drop(end);
    });
}

//! Bad ends: a process poisoned in the middle of its work, things dropped in the wrong order, threads that
//! die with memory in their hands.

use std::sync::Barrier;

use cuda_green::{
    CUresult, ContextId, Driver, Error, GpuBuffer, GpuMemoryPool, MemoryBudget, ModelNeeds,
    ModelSlots, Result, SmPartitionManager,
    sim::{Injection, Sim},
};

const MIB: usize = 1 << 20;

fn needs(mib: usize) -> ModelNeeds {
    ModelNeeds {
        bytes: (mib * MIB) as u64,
        priority: 0,
    }
}

/// Four threads at work when a kernel of somebody's writes where it must not.
#[test]
fn a_process_poisoned_in_the_middle_loses_no_count() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let budget = MemoryBudget::new(1 << 30).unwrap();
    let pool = GpuMemoryPool::within(&device, &budget, 512 << 20).unwrap();
    let slots = ModelSlots::new(pool.child(200 << 20).unwrap(), 13).unwrap();
    let lease = slots
        .get_or_load("model", needs(64), |pool| pool.allocate(64 * MIB))
        .unwrap();
    drop(pool.allocate(4096).unwrap());
    let started = Barrier::new(5);
    std::thread::scope(|scope| {
        let work = |thread: usize| -> Result<Vec<GpuBuffer>> {
            let mut held = Vec::new();
            started.wait();
            loop {
                let size = 1000 + (held.len() * 7919 + thread * 13) % (2 * MIB);
                let buffer = pool.allocate(size)?;
                buffer.copy_from(&[1; 100])?;
                held.push(buffer);
                if held.len() > 20 {
                    held.swap_remove(thread);
                }
            }
        };
        let threads: Vec<_> = (0..4)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        started.wait();
        let fault = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
        simulator.inject(Injection::fail("*", fault).unwrap().onwards(200));
        for thread in threads {
            let error = thread.join().unwrap().err();
            assert!(matches!(error, Some(Error::Poisoned { .. })), "{error:?}");
        }
    });
    // What has to do with the device says so, also where the memory is at hand; what counts goes on.
    let poisoned =
        |error: Option<Error>| assert!(matches!(error, Some(Error::Poisoned { .. })), "{error:?}");
    poisoned(pool.allocate(4096).err());
    poisoned(pool.trim().err());
    poisoned(lease.copy_from(&[1]).err());
    poisoned(
        slots
            .get_or_load("other", needs(64), |pool| pool.allocate(MIB))
            .err(),
    );
    assert_eq!((pool.used(), budget.used()), (64 << 20, 64 << 20));
    assert_eq!(slots.status().slots.len(), 1);
    drop(lease);
    drop(slots);
    assert_eq!(
        (pool.used(), pool.metrics().reserved, budget.used()),
        (0, 0, 0)
    );
    let metrics = pool.metrics();
    assert_eq!(metrics.allocations, metrics.deallocations);
}

/// The driver takes a slab back and does not count it as free: that is told, and so is the model's eviction.
#[test]
fn memory_that_the_driver_keeps_is_told() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let pool = GpuMemoryPool::on(&device, 512 << 20).unwrap();
    let refusal = || {
        let code = CUresult::CUDA_ERROR_INVALID_VALUE;
        simulator.inject(Injection::fail("cuMemFreeAsync", code).unwrap().at(1));
    };
    drop(pool.allocate(100 * MIB).unwrap());
    refusal();
    let error = pool.trim().err();
    assert!(
        matches!(error, Some(Error::MemoryNotBack { bytes }) if bytes == 100 << 20),
        "{error:?}"
    );
    let slots = ModelSlots::new(pool.clone(), 2).unwrap();
    let load = |pool: &GpuMemoryPool| pool.allocate(64 * MIB);
    drop(slots.get_or_load("model", needs(64), load).unwrap());
    refusal();
    let error = slots.evict("model").err();
    assert!(
        matches!(error, Some(Error::MemoryNotBack { bytes }) if bytes == 64 << 20),
        "{error:?}"
    );
    // Once it does as it should, so do the others.
    drop(slots.get_or_load("model", needs(64), load).unwrap());
    assert_eq!(slots.evict("model").unwrap(), 64 << 20);
    simulator.assert_injections_fired();
}

/// Everything goes before what it came from: the device, the budget, the manager, the contexts, the pools.
#[test]
fn the_order_of_dropping_does_not_matter() {
    for reversed in [false, true] {
        let simulator = Sim::new("h200@13.0").unwrap();
        let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
        let budget = MemoryBudget::new(8 << 30).unwrap();
        let manager = SmPartitionManager::on(&device).unwrap();
        let manager = manager.with_memory_budget(&budget).unwrap();
        manager.init_quad_partition().unwrap();
        let context = manager.get_context(ContextId::Embedding).unwrap();
        let stream = context.create_stream().unwrap();
        let pool = context.memory().unwrap().clone();
        let child = pool.child(1 << 30).unwrap();
        let reserved = child.reserve(512 << 20).unwrap();
        let mut pinned = pool.allocate_pinned::<u8>(100).unwrap();
        let mut buffer = reserved.allocate(100).unwrap();
        buffer.fill_on(7, &stream).unwrap();
        buffer.copy_to_pinned(&mut pinned, &stream).unwrap();
        let slots = ModelSlots::new(pool.child(1 << 30).unwrap(), 2).unwrap();
        let lease = slots
            .get_or_load("model", needs(10), |pool| pool.allocate(MIB))
            .unwrap();
        let of_budget = budget.clone();
        let mut things: Vec<Box<dyn Send>> = vec![
            Box::new(device),
            Box::new(budget),
            Box::new(manager),
            Box::new(context),
            Box::new(slots),
            Box::new(pool),
            Box::new(child),
            Box::new(reserved),
            Box::new(stream),
            Box::new(pinned),
            Box::new(buffer),
            Box::new(lease),
        ];
        if reversed {
            things.reverse();
        }
        for thing in things {
            drop(thing);
        }
        assert_eq!((of_budget.used(), of_budget.reserved()), (0, 0));
        simulator.assert_no_leaks();
    }
}

/// Threads end in every way, with buffers, leases and half-loaded models; others get it all back.
#[test]
fn threads_that_die_give_everything_back() {
    let simulator = Sim::new("h200@13.0").unwrap();
    {
        let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
        let pool = GpuMemoryPool::on(&device, 100 << 20).unwrap();
        let slots = ModelSlots::new(pool.child(50 << 20).unwrap(), 3).unwrap();
        std::thread::scope(|scope| {
            let with_buffers = scope.spawn(|| {
                let _held: Vec<_> = (1..50).map(|i| pool.allocate(i * 5000).unwrap()).collect();
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            let in_a_load = scope.spawn(|| {
                let _ = slots.get_or_load("half", needs(40), |pool| -> Result<GpuBuffer> {
                    let _half = pool.allocate(20 * MIB)?;
                    std::panic::resume_unwind(Box::new("on purpose"));
                });
            });
            let with_a_lease = scope.spawn(|| {
                let load = |pool: &GpuMemoryPool| pool.allocate(5 * MIB);
                let _lease = slots.get_or_load("whole", needs(5), load).unwrap();
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            assert!(with_buffers.join().is_err());
            assert!(in_a_load.join().is_err());
            assert!(with_a_lease.join().is_err());
        });
        assert_eq!(pool.used(), 5 << 20, "the model that is loaded, idle now");
        slots.evict("whole").unwrap();
        // What the dead threads had at hand serves the living: the whole limit can be had.
        assert_eq!(pool.allocate(100 * MIB).unwrap().len(), 100 * MIB);
    }
    simulator.assert_no_leaks();
}

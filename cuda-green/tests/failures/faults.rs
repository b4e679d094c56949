//! A fault that stays, and then the end of every kind of object, in many orders: nothing panics or hangs,
//! and who asks is told of the first fault.
//!
//! The fault comes from a kernel before the objects are dropped, or from any driver call while they are.

use std::any::Any;

use crate::alone;
use cuda_green::{
    ContextGuard, ContextId, Driver, Error, Event, GpuMemoryPool, HandOff, LaunchConfig,
    ModelNeeds, ModelSlots, Module, PinnedBuffer, RebalanceHint, SmPartitionManager, kernels,
    sim::{Injection, Sim},
    sys::CUresult,
};

const PROFILES: [&str; 5] = [
    "t4@11.4",
    "h200@12.4",
    "h200@13.0",
    "rtx5090@13.1",
    "h200@newest",
];

/// One object of each kind, in use.
struct World {
    objects: Vec<Box<dyn Any>>,
    /// What is asked after the fault.
    manager: std::sync::Arc<SmPartitionManager>,
    stream: std::sync::Arc<cuda_green::Stream>,
}

fn world(simulator: &Sim) -> World {
    let driver = Driver::simulated(simulator).unwrap();
    let device = driver.device(0).unwrap();
    let manager = std::sync::Arc::new(SmPartitionManager::on(&device).unwrap());
    manager.init_quad_partition().unwrap();
    let context = manager.get_context(ContextId::Dream).unwrap();
    let by_name = manager.create_stream(ContextId::Training).unwrap();
    // Generations that are retired, and streams in them.
    match manager.rebalance_with(RebalanceHint::TrainingActive, HandOff::Strict) {
        Err(Error::Unsupported { .. }) => {}
        result => result.unwrap(),
    }
    let order = Event::new(&device).unwrap();
    by_name.record(&order).unwrap();
    let stream = std::sync::Arc::new(context.create_stream().unwrap());
    let outer = manager.activate(ContextId::Dream).unwrap();
    let inner = manager.activate(ContextId::Embedding).unwrap();
    // Another thread in the same context gets a sibling, where drivers need that.
    std::thread::scope(|scope| {
        let beside = || {
            manager
                .activate(ContextId::Embedding)
                .unwrap()
                .close()
                .unwrap()
        };
        scope.spawn(beside).join().unwrap();
    });
    let pool = GpuMemoryPool::on(&device, 64 << 20).unwrap();
    let child = pool.child(1 << 20).unwrap();
    let buffer = child.allocate(4096).unwrap();
    let (later, ordered) = (
        pool.allocate_on(&stream, 4096).unwrap(),
        pool.allocate(4096).unwrap(),
    );
    ordered.free_on(&stream).unwrap();
    let typed = context.memory().unwrap().allocate_typed::<f32>(16).unwrap();
    let pinned = PinnedBuffer::<f32>::new(&device, 16).unwrap();
    let slots = ModelSlots::new(pool.child(32 << 20).unwrap(), 2).unwrap();
    let needs = ModelNeeds {
        bytes: 1 << 20,
        priority: 0,
    };
    let load = |pool: &GpuMemoryPool| pool.allocate(1 << 20);
    let lease = slots.get_or_load("model", needs, load).unwrap();
    let module = Module::load_ptx(&device, kernels::PTX).unwrap();
    let kernel = module.kernel(kernels::BURN).unwrap();
    context.observed_sm_ids().unwrap(); // loads the crate's own module
    let timed = Event::timed(&device).unwrap();
    stream.record(&timed).unwrap();
    let objects: Vec<Box<dyn Any>> = vec![
        Box::new(driver),
        Box::new(device),
        Box::new(manager.clone()),
        Box::new(context),
        Box::new(by_name),
        Box::new(order),
        Box::new(stream.clone()),
        Box::<ContextGuard<'static>>::new(outer),
        Box::<ContextGuard<'static>>::new(inner),
        Box::new(pool),
        Box::new(child),
        Box::new(buffer),
        Box::new(later),
        Box::new(typed),
        Box::new(pinned),
        Box::new(slots),
        Box::new(lease),
        Box::new(module),
        Box::new(kernel),
        Box::new(timed),
    ];
    World {
        objects,
        manager,
        stream,
    }
}

/// An order of dropping so many things: forwards, backwards, and shuffles that are the same in each run.
fn order(number: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    match number {
        0 => {}
        1 => order.reverse(),
        seed => {
            let mut random = seed;
            for last in (1..count).rev() {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                order.swap(last, ((random >> 33) % (last as u64 + 1)) as usize);
            }
        }
    }
    order
}

fn drop_all(objects: Vec<Box<dyn Any>>, order: &[usize]) {
    let mut objects: Vec<Option<Box<dyn Any>>> = objects.into_iter().map(Some).collect();
    for index in order {
        drop(objects[*index].take());
    }
}

#[test]
fn after_a_kernel_crashed_everything_ends_in_any_order() {
    let _alone = alone();
    for profile in PROFILES {
        for number in 0..60 {
            let simulator = Sim::new(profile).unwrap();
            simulator.register_kernel(kernels::BURN, |launch| {
                let _ = launch.write(0xdead_0000, &[1]);
            });
            // On a thread of its own, whose end is part of it: something is current there.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let World {
                        objects,
                        manager,
                        stream,
                    } = world(&simulator);
                    let module = Module::load_ptx(manager.device(), kernels::PTX).unwrap();
                    let kernel = module.kernel(kernels::BURN).unwrap();
                    let shape = LaunchConfig::linear(1, 32);
                    // SAFETY: the kernel takes an address and a number; that it crashes is the point.
                    let launched = unsafe { stream.launch(&kernel, &shape, &[&0u64, &1u32]) };
                    let fault = launched.and_then(|()| stream.synchronize()).unwrap_err();
                    let Error::Poisoned { call: first, .. } = fault else {
                        panic!("{fault}")
                    };
                    let answers = [
                        manager.activate(ContextId::Embedding).map(drop),
                        manager.create_stream(ContextId::Dream).map(drop),
                        manager.verify().map(drop),
                        manager.destroy_context(ContextId::Reserved),
                        stream.synchronize(),
                        // SAFETY: the stream is live.
                        unsafe { manager.stream_home(stream.raw()) }.map(drop),
                    ];
                    for (index, answer) in answers.into_iter().enumerate() {
                        match answer {
                            Err(Error::Poisoned { call, .. }) => assert_eq!(call, first),
                            // In single-context mode these two need no driver.
                            Ok(()) if [3, 5].contains(&index) && profile == "t4@11.4" => {}
                            other => panic!("{profile}, {index}: {other:?}"),
                        }
                    }
                    drop((manager, stream, kernel, module));
                    drop_all(objects, &order(number, 20));
                });
            });
        }
    }
}

/// Each call of the end fails in turn, with a fault that stays.
#[test]
fn a_fault_at_any_moment_of_the_end_does_no_harm() {
    let _alone = alone();
    for profile in PROFILES {
        for number in 0..3 {
            let mut calls = u64::MAX;
            let mut nth = 0;
            while nth <= calls {
                let simulator = Sim::new(profile).unwrap();
                let World {
                    objects,
                    manager,
                    stream,
                } = world(&simulator);
                drop((manager, stream));
                let code = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
                if nth > 0 {
                    // The 0th time is the good one, which tells how many calls there are.
                    simulator.inject(Injection::fail("*", code).unwrap().at(nth));
                }
                let before = simulator.calls();
                drop_all(objects, &order(number, 20));
                if nth == 0 {
                    calls = simulator.calls() - before;
                    assert!(calls > 20, "{calls} calls");
                    simulator.assert_no_leaks();
                }
                nth += 1;
            }
        }
    }
}

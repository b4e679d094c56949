//! Random rebalances under load, on simulated drivers, against a model: each kernel runs on the SMs that its
//! name had when it was launched, no SM is in two partitions, who is not preemptible never has less, and
//! nothing is lost or left behind.
//!
//! `CUDA_GREEN_REBALANCES` sets how many, for each profile; `cargo xtask safety` asks for 100,000.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use cuda_green::{
    ContextId, Driver, Error, GreenContext, HandOff, Kernel, LaunchConfig, Module, PartitionStream,
    RebalanceHint, SmPartitionManager, Stream, kernels,
    sim::{BlockCost, Sim},
};

thread_local! {
    /// The SMs of this thread's last launch: a simulated kernel runs where it is launched.
    static SEEN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// How many rebalances each profile gets.
fn rebalances() -> usize {
    std::env::var("CUDA_GREEN_REBALANCES").map_or(5_000, |number| number.parse().unwrap())
}

/// A stream of numbers that is the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

/// The SMs of each name under each hint, seen while nothing else ran.
type Promises = BTreeMap<RebalanceHint, BTreeMap<ContextId, Vec<u32>>>;

fn promises(manager: &SmPartitionManager) -> Promises {
    let of = |hint| {
        manager.rebalance(hint).unwrap();
        let seen = ContextId::ALL.map(|id| {
            let context = manager.get_context(id).unwrap();
            (id, context.observed_sm_ids().unwrap())
        });
        let mut all: Vec<u32> = seen.iter().flat_map(|(_, ids)| ids.clone()).collect();
        let given = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), given, "{hint:?} gives an SM twice");
        (hint, seen.into())
    };
    let promises = Promises::from(RebalanceHint::ALL.map(of));
    let embedding = |hint| promises[&hint][&ContextId::Embedding].len();
    let least = RebalanceHint::ALL.map(embedding).into_iter().min();
    assert_eq!(
        least,
        Some(embedding(RebalanceHint::Balanced)),
        "it is not preemptible"
    );
    promises
}

/// Whether these are the SMs that the name has under some hint, with this many.
fn promised(promises: &Promises, id: ContextId, sm_count: u32, seen: &[u32]) -> bool {
    promises
        .values()
        .any(|names| names[&id].len() as u32 == sm_count && names[&id] == seen)
}

struct Load<'a> {
    kernel: &'a Kernel,
    promises: &'a Promises,
    launched: &'a AtomicU64,
}

impl Load<'_> {
    fn launch(&self, id: ContextId, stream: &Stream) -> cuda_green::Result<()> {
        // SAFETY: the kernel takes an address and a number, and as a simulated one it looks at neither.
        unsafe { stream.launch(self.kernel, &LaunchConfig::linear(4, 256), &[&0u64, &0u32])? };
        self.launched.fetch_add(1, Ordering::Relaxed);
        SEEN.with_borrow(|seen| {
            let sm_count = stream.context().sm_count();
            assert!(
                promised(self.promises, id, sm_count, seen),
                "{id:?} with {sm_count} SMs ran on {seen:?}"
            );
        });
        Ok(())
    }

    /// What a thread does meanwhile: it launches by name, looks names up, activates, and holds old handles.
    fn run(&self, manager: &SmPartitionManager, seed: u64, stop: &AtomicBool) {
        let mut random = Random(seed);
        let streams: Vec<(ContextId, PartitionStream)> = ContextId::ALL
            .iter()
            .map(|id| (*id, manager.create_stream(*id).unwrap()))
            .collect();
        let mut held: Option<(ContextId, Stream)> = None;
        while !stop.load(Ordering::Relaxed) {
            let (id, stream) = &streams[random.below(4)];
            match random.below(16) {
                0 => stream.synchronize().unwrap(),
                1 => {
                    let stream = manager.get_context(*id).unwrap().create_stream();
                    held = Some((*id, stream.unwrap()));
                }
                2 => manager.activate(*id).unwrap().close().unwrap(),
                3 => match manager.destroy_context(*id) {
                    Err(Error::ContextInUse { .. }) => {}
                    other => panic!("{id:?} is in use: {other:?}"),
                },
                4..8 => {
                    if let Some((id, stream)) = &held {
                        self.launch(*id, stream).unwrap();
                    }
                }
                _ => stream.with(|stream| self.launch(*id, stream)).unwrap(),
            }
            if random.below(8) == 0 {
                std::thread::yield_now();
            }
        }
        for (_, stream) in &streams {
            stream.synchronize().unwrap();
        }
    }
}

fn survives(profile: &str) {
    let simulator = Sim::new(profile).unwrap();
    let _nothing_is_left = simulator.leak_guard();
    let (launched, ran) = (AtomicU64::new(0), std::sync::Arc::new(AtomicU64::new(0)));
    {
        let ran = ran.clone();
        simulator.register_kernel(kernels::BURN, move |launch| {
            ran.fetch_add(1, Ordering::Relaxed);
            SEEN.with_borrow_mut(|seen| {
                seen.clear();
                seen.extend_from_slice(launch.sm_ids());
            });
        });
    }
    simulator.register_kernel_cost("cuda_green_burn", |_| {
        BlockCost::idle(Duration::from_micros(20))
    });
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = SmPartitionManager::on(&device).unwrap();
    manager.init_quad_partition().unwrap();
    let promises = promises(&manager);
    let kernel = Module::load_ptx(&device, kernels::PTX).unwrap();
    let kernel = kernel.kernel(kernels::BURN).unwrap();
    let load = Load {
        kernel: &kernel,
        promises: &promises,
        launched: &launched,
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads = [1, 2].map(|seed| {
            let (load, manager, stop) = (&load, &manager, &stop);
            scope.spawn(move || load.run(manager, seed, stop))
        });
        let mut random = Random(3);
        let mut held: Vec<GreenContext> = Vec::new();
        for step in 0..rebalances() {
            let hint = RebalanceHint::ALL[random.below(4)];
            let hand_off = [HandOff::Strict, HandOff::Relaxed][random.below(2)];
            manager.rebalance_with(hint, hand_off).unwrap();
            for id in ContextId::ALL {
                let context = manager.get_context(id).unwrap();
                assert_eq!(context.sm_count() as usize, promises[&hint][&id].len());
                if random.below(64) == 0 {
                    held.push(context);
                }
            }
            if step % 256 == 0 {
                held.clear();
                manager.release_retired().unwrap();
            }
            if threads.iter().any(|thread| thread.is_finished()) {
                break; // it found something, which joining tells
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
    });
    assert_eq!(
        launched.load(Ordering::Relaxed),
        ran.load(Ordering::Relaxed),
        "each launch ran once"
    );
    for id in ContextId::ALL {
        manager.destroy_context(id).unwrap();
    }
}

#[test]
fn merged_units() {
    survives("h200@13.0");
}

#[test]
fn structured() {
    survives("rtx5090@13.1");
}

#[test]
fn newest() {
    survives("h200@newest");
}

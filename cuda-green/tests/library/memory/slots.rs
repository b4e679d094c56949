//! Model slots: random sequences against a model, loads from many threads, and what goes wrong in a load.

use std::{
    collections::BTreeMap,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
};

use cuda_green::{
    Driver, Error, EvictionPolicy, GpuBuffer, GpuMemoryPool, ModelLease, ModelNeeds, ModelSlots,
    sim::Sim,
};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 100;
const SLOTS: usize = 5;

fn pool(simulator: &Sim, limit: u64) -> GpuMemoryPool {
    let device = Driver::simulated(simulator).unwrap().device(0).unwrap();
    GpuMemoryPool::on(&device, limit).unwrap()
}

fn needs(mib: u64, priority: i32) -> ModelNeeds {
    ModelNeeds {
        bytes: mib * MIB,
        priority,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Load {
        name: u8,
        mib: u64,
        priority: i32,
        hold: bool,
    },
    Release {
        name: u8,
    },
    Pin {
        name: u8,
    },
    Unpin {
        name: u8,
    },
    Touch {
        name: u8,
    },
    Evict {
        name: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..8u8;
    let step = prop_oneof![
        6 => (name.clone(), 1..70u64, 0..3, prop::bool::weighted(0.2))
            .prop_map(|(name, mib, priority, hold)| Step::Load { name, mib, priority, hold }),
        2 => name.clone().prop_map(|name| Step::Release { name }),
        1 => name.clone().prop_map(|name| Step::Pin { name }),
        2 => name.clone().prop_map(|name| Step::Unpin { name }),
        1 => name.clone().prop_map(|name| Step::Touch { name }),
        1 => name.prop_map(|name| Step::Evict { name }),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Clone, Debug)]
struct Entry {
    mib: u64,
    priority: i32,
    pins: usize,
    used: u64,
}

/// What the slots should hold, worked out the plain way.
struct Model {
    entries: BTreeMap<u8, Entry>,
    held: BTreeMap<u8, Vec<ModelLease<GpuBuffer>>>,
    clock: u64,
}

impl Model {
    fn idle(&self, name: u8) -> bool {
        self.entries[&name].pins == 0 && self.held.get(&name).is_none_or(Vec::is_empty)
    }

    fn free(&self) -> u64 {
        BUDGET - self.entries.values().map(|entry| entry.mib).sum::<u64>()
    }

    fn victim(&self, policy: EvictionPolicy, missing: u64) -> Option<u8> {
        let mut idle: Vec<(u8, Entry)> = self
            .entries
            .iter()
            .filter(|(name, _)| self.idle(**name))
            .map(|(name, entry)| (*name, entry.clone()))
            .collect();
        idle.sort_by_key(|(_, entry)| entry.used);
        match policy {
            EvictionPolicy::LowestPriority => idle.sort_by_key(|(_, entry)| entry.priority),
            EvictionPolicy::BestFit => {
                idle.sort_by_key(|(_, entry)| entry.mib);
                if let Some(at) = idle.iter().position(|(_, entry)| entry.mib >= missing) {
                    return Some(idle[at].0);
                }
                return idle.last().map(|(name, _)| *name);
            }
            _ => {}
        }
        idle.first().map(|(name, _)| *name)
    }

    /// Whether it goes in, and if so, puts it in.
    fn load(&mut self, policy: EvictionPolicy, name: u8, mib: u64, priority: i32) -> bool {
        self.clock += 1;
        let used = self.clock;
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.used = used;
            return true;
        }
        let idle: Vec<u8> = self
            .entries
            .keys()
            .copied()
            .filter(|name| self.idle(*name))
            .collect();
        let evictable: u64 = idle.iter().map(|name| self.entries[name].mib).sum();
        let full = self.entries.len() == SLOTS;
        if self.free() + evictable < mib || (full && idle.is_empty()) {
            return false;
        }
        while self.free() < mib || self.entries.len() == SLOTS {
            let victim = self
                .victim(policy, mib.saturating_sub(self.free()))
                .unwrap();
            self.entries.remove(&victim);
        }
        self.entries.insert(
            name,
            Entry {
                mib,
                priority,
                pins: 0,
                used,
            },
        );
        true
    }
}

fn run(slots: &ModelSlots<GpuBuffer>, policy: EvictionPolicy, steps: &[Step]) {
    let mut model = Model {
        entries: BTreeMap::new(),
        held: BTreeMap::new(),
        clock: 0,
    };
    for step in steps {
        match *step {
            Step::Load {
                name,
                mib,
                priority,
                hold,
            } => {
                let was = model.entries.contains_key(&name);
                let mut called = 0;
                let result = slots.get_or_load(&name.to_string(), needs(mib, priority), |pool| {
                    called += 1;
                    pool.allocate((mib * MIB) as usize)
                });
                let expected = model.load(policy, name, mib, priority);
                assert_eq!(result.is_ok(), expected, "{step:?}: {:?}", result.err());
                assert_eq!(called == 1, expected && !was);
                match result {
                    Ok(lease) if hold => model.held.entry(name).or_default().push(lease),
                    Ok(_) => {}
                    Err(error) => assert!(matches!(error, Error::NoRoomForModel { .. })),
                }
            }
            Step::Release { name } => drop(model.held.remove(&name)),
            Step::Pin { name } => {
                let entry = model.entries.get_mut(&name);
                assert_eq!(slots.pin(&name.to_string()).is_ok(), entry.is_some());
                if let Some(entry) = entry {
                    entry.pins += 1;
                }
            }
            Step::Unpin { name } => {
                let entry = model.entries.get_mut(&name);
                assert_eq!(slots.unpin(&name.to_string()).is_ok(), entry.is_some());
                if let Some(entry) = entry {
                    entry.pins = entry.pins.saturating_sub(1);
                }
            }
            Step::Touch { name } => {
                let there = model.entries.contains_key(&name);
                assert_eq!(slots.touch(&name.to_string()).is_ok(), there);
                if there {
                    model.clock += 1;
                    model.entries.get_mut(&name).unwrap().used = model.clock;
                }
            }
            Step::Evict { name } => match slots.evict(&name.to_string()) {
                Ok(bytes) => {
                    assert!(model.idle(name));
                    assert_eq!(bytes, model.entries.remove(&name).unwrap().mib * MIB);
                }
                Err(Error::NoSuchModel { .. }) => assert!(!model.entries.contains_key(&name)),
                Err(Error::ModelInUse { .. }) => assert!(!model.idle(name)),
                Err(other) => panic!("{other}"),
            },
        }
        let status = slots.status();
        let there: Vec<String> = status.slots.iter().map(|slot| slot.name.clone()).collect();
        let expected: Vec<String> = model.entries.keys().map(u8::to_string).collect();
        assert_eq!(there, expected, "after {step:?}");
        assert_eq!(status.available, model.free() * MIB);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_agrees_with_the_model(
        policy in prop::sample::select(vec![
            EvictionPolicy::LeastRecentlyUsed,
            EvictionPolicy::LowestPriority,
            EvictionPolicy::BestFit,
        ]),
        profile in prop::sample::select(vec!["t4@11.4", "h200@12.4", "h200@13.0"]),
        steps in steps(),
    ) {
        let simulator = Sim::new(profile).unwrap();
        let slots =
            ModelSlots::with_policy(pool(&simulator, BUDGET * MIB), SLOTS, policy).unwrap();
        run(&slots, policy, &steps);
        drop(slots);
        let live = simulator.live_objects();
        prop_assert!(live.is_empty(), "left behind: {live}");
    }
}

/// Thirteen models in a budget below 8 GiB that holds about half of them, asked for by four threads.
#[test]
fn thirteen_models_from_many_threads() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let slots = ModelSlots::new(pool(&simulator, 8 << 30), 13).unwrap();
    let loading: [AtomicUsize; 13] = Default::default();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (slots, loading) = (&slots, &loading);
            scope.spawn(move || {
                for round in 0..200 {
                    let which = (thread * 5 + round * 7) % 13;
                    let bytes = (900 + which as u64 * 40) * MIB;
                    let lease = slots.get_or_load(
                        &which.to_string(),
                        ModelNeeds { bytes, priority: 0 },
                        |pool| {
                            // No other thread is loading this one.
                            assert_eq!(loading[which].fetch_add(1, Ordering::SeqCst), 0);
                            let buffer = pool.allocate(bytes as usize);
                            loading[which].fetch_sub(1, Ordering::SeqCst);
                            buffer
                        },
                    );
                    match lease {
                        Ok(lease) => assert_eq!(lease.len() as u64, bytes),
                        // The others hold so much that this cannot fit now; never more than they can.
                        Err(Error::NoRoomForModel { held, .. }) => assert!(held > 0),
                        Err(error) => panic!("{error}"),
                    }
                    assert!(slots.pool().used() <= 8 << 30);
                }
            });
        }
    });
    let status = slots.status();
    assert!(
        status.evictions > 0 && status.slots.len() <= 13,
        "{status:?}"
    );
    drop(slots);
    assert!(simulator.live_objects().is_empty());
}

#[test]
fn threads_that_want_the_same_model_load_it_once() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let slots = ModelSlots::new(pool(&simulator, 64 * MIB), 2).unwrap();
    let (loads, barrier) = (AtomicUsize::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                let lease = slots.get_or_load("one", needs(32, 0), |pool| {
                    loads.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    pool.allocate(1000)
                });
                assert_eq!(lease.unwrap().len(), 1000);
            });
        }
    });
    assert_eq!(loads.into_inner(), 1);
}

#[test]
fn a_load_that_fails_or_panics_leaves_the_slot_empty() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let slots = ModelSlots::new(pool(&simulator, 64 * MIB), 1).unwrap();
    let error = slots.get_or_load("broken", needs(32, 0), |pool| {
        let _half = pool.allocate(MIB as usize)?;
        Err(Error::ForeignContext)
    });
    assert!(matches!(error, Err(Error::ForeignContext)));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = slots.get_or_load("worse", needs(32, 0), |_| panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    assert_eq!((slots.status().slots.len(), slots.pool().used()), (0, 0));
    drop(
        slots
            .get_or_load("fine", needs(64, 0), |pool| pool.allocate(64 << 20))
            .unwrap(),
    );
    assert_eq!(slots.status().failures, 2);
}

/// The budget allows more than the device has: the idle model goes, and its memory is really back.
#[test]
fn a_device_that_is_full_makes_idle_models_go() {
    let simulator = Sim::new("t4@13.0").unwrap();
    let slots = ModelSlots::new(pool(&simulator, 1 << 40), 13).unwrap();
    let most = slots.pool().device().free_memory().unwrap() / 5 * 3;
    let big = ModelNeeds {
        bytes: most,
        priority: 0,
    };
    drop(
        slots
            .get_or_load("first", big, |pool| pool.allocate(most as usize))
            .unwrap(),
    );
    let second = slots
        .get_or_load("second", big, |pool| pool.allocate(most as usize))
        .unwrap();
    assert!(!slots.contains("first"));
    // Now that one is in use, there is no way.
    let third = slots.get_or_load("third", big, |pool| pool.allocate(most as usize));
    assert!(matches!(third, Err(Error::DeviceOutOfMemory { asked, .. }) if asked == most));
    drop((third, second));
    slots.evict("second").unwrap();
    assert!(slots.pool().device().free_memory().unwrap() > most);
}

/// A model that left a buffer elsewhere: its bytes stay taken, and evicting it says so.
#[test]
fn memory_that_is_not_back_is_not_counted_as_free() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let slots: ModelSlots<()> = ModelSlots::new(pool(&simulator, 64 * MIB), 2).unwrap();
    let mut elsewhere = None;
    drop(slots.get_or_load("leaky", needs(32, 0), |pool| {
        elsewhere = Some(pool.allocate(1000)?);
        Ok(())
    }));
    assert!(matches!(
        slots.evict("leaky"),
        Err(Error::MemoryNotBack { bytes: 1000 })
    ));
    assert_eq!(slots.pool().available(), 32 * MIB);
    drop(elsewhere);
    assert_eq!(slots.pool().available(), 64 * MIB);
}

#[test]
fn a_model_of_no_bytes_is_refused_and_evicts_none() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let slots = ModelSlots::new(pool(&simulator, BUDGET * MIB), 1).unwrap();
    let load = |pool: &GpuMemoryPool| pool.allocate(1000);
    slots.get_or_load("there", needs(1, 0), load).unwrap();
    let refused = slots.get_or_load("new", needs(0, 0), load).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }));
    assert!(slots.contains("there"));
}

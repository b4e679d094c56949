//! Pools within pools, with streams, reservations and trims in any order, against a plain model: what fits is
//! granted and nothing else, no two buffers overlap, nobody writes into another's, nothing is left behind.

use cuda_green::{
    ContextPolicy, Driver, Error, GpuBuffer, GpuMemoryPool, GreenContext, MemoryBudget, Stream,
    sim::Sim,
};
use proptest::{prelude::*, sample::Index};

const DEVICE_LIMIT: u64 = 60 << 20;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        pool: Index,
        size: usize,
        stream: Option<usize>,
    },
    Free {
        held: Index,
        stream: Option<usize>,
    },
    Child {
        pool: Index,
        limit: u64,
        reserve: bool,
    },
    DropPool {
        pool: Index,
    },
    Trim {
        pool: Index,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let stream = || prop::option::of(0..2usize);
    let size = prop_oneof![1..5_000usize, 1..(3usize << 20), 1..(30usize << 20)];
    let step = prop_oneof![
        8 => (index(), size, stream())
            .prop_map(|(pool, size, stream)| Step::Allocate { pool, size, stream }),
        6 => (index(), stream()).prop_map(|(held, stream)| Step::Free { held, stream }),
        2 => (index(), 1..(50u64 << 20), any::<bool>())
            .prop_map(|(pool, limit, reserve)| Step::Child { pool, limit, reserve }),
        1 => index().prop_map(|pool| Step::DropPool { pool }),
        1 => index().prop_map(|pool| Step::Trim { pool }),
    ];
    prop::collection::vec(step, 1..80)
}

/// A limit of the model. What is reserved is used of the parent as long as anything is alive in it.
struct Limit {
    bytes: u64,
    parent: Option<usize>,
    prepaid: bool,
    handle: Option<GpuMemoryPool>,
}

struct Held {
    buffer: GpuBuffer,
    limit: usize,
    stamp: u8,
}

struct World {
    limits: Vec<Limit>,
    held: Vec<Held>,
}

impl World {
    fn is_alive(&self, index: usize) -> bool {
        self.limits[index].handle.is_some()
            || self.held.iter().any(|held| held.limit == index)
            || (0..self.limits.len())
                .any(|child| self.limits[child].parent == Some(index) && self.is_alive(child))
    }

    fn used(&self, index: usize) -> u64 {
        let own = self.held.iter().filter(|held| held.limit == index);
        let own: u64 = own.map(|held| held.buffer.len() as u64).sum();
        let children = (0..self.limits.len())
            .filter(|child| self.limits[*child].parent == Some(index))
            .map(|child| match self.limits[child].prepaid {
                true if self.is_alive(child) => self.limits[child].bytes,
                true => 0,
                false => self.used(child),
            });
        own + children.sum::<u64>()
    }

    fn available(&self, index: usize) -> u64 {
        let limit = &self.limits[index];
        let own = limit.bytes - self.used(index);
        match limit.parent {
            Some(parent) if !limit.prepaid => own.min(self.available(parent)),
            _ => own,
        }
    }

    /// A pool whose handle is there.
    fn pick(&self, index: &Index) -> Option<(usize, GpuMemoryPool)> {
        let there: Vec<usize> = (0..self.limits.len())
            .filter(|index| self.limits[*index].handle.is_some())
            .collect();
        let at = (!there.is_empty()).then(|| there[index.index(there.len())])?;
        self.limits[at].handle.clone().map(|pool| (at, pool))
    }

    fn step(&mut self, step: &Step, streams: &[Stream]) {
        match step {
            Step::Allocate { pool, size, stream } => {
                let Some((limit, pool)) = self.pick(pool) else {
                    return;
                };
                let available = self.available(limit);
                let result = match stream {
                    Some(stream) => pool.allocate_on(&streams[*stream], *size),
                    None => pool.allocate(*size),
                };
                match result {
                    Ok(mut buffer) => {
                        assert!(*size as u64 <= available, "{size} granted of {available}");
                        let range = |buffer: &GpuBuffer| (buffer.address(), buffer.len() as u64);
                        let (start, len) = range(&buffer);
                        for other in &self.held {
                            let (at, length) = range(&other.buffer);
                            assert!(start + len <= at || at + length <= start, "two overlap");
                        }
                        let stamp = (start >> 8) as u8;
                        match stream {
                            Some(stream) => buffer.fill_on(stamp, &streams[*stream]).unwrap(),
                            None => buffer.fill(stamp).unwrap(),
                        }
                        self.held.push(Held {
                            buffer,
                            limit,
                            stamp,
                        });
                    }
                    Err(Error::OutOfMemory {
                        asked,
                        available: told,
                        ..
                    }) => {
                        assert_eq!((asked, told), (*size as u64, available));
                        assert!(asked > told, "what fits was refused");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Free { held, stream } => {
                if self.held.is_empty() {
                    return;
                }
                let held = self.held.swap_remove(held.index(self.held.len()));
                let mut ends = vec![0; held.buffer.len().min(64)];
                held.buffer.copy_to(&mut ends).unwrap();
                assert!(
                    ends.iter().all(|byte| *byte == held.stamp),
                    "another wrote here"
                );
                match stream {
                    Some(stream) => held.buffer.free_on(&streams[*stream]).unwrap(),
                    None => drop(held.buffer),
                }
            }
            Step::Child {
                pool,
                limit,
                reserve,
            } => {
                let Some((parent, pool)) = self.pick(pool) else {
                    return;
                };
                let available = self.available(parent);
                let made = if *reserve {
                    pool.reserve(*limit)
                } else {
                    pool.child(*limit)
                };
                assert_eq!(made.is_ok(), !reserve || *limit <= available);
                if let Ok(handle) = made {
                    self.limits.push(Limit {
                        bytes: *limit,
                        parent: Some(parent),
                        prepaid: *reserve,
                        handle: Some(handle),
                    });
                }
            }
            Step::DropPool { pool } => {
                if let Some((index, _)) = self.pick(pool) {
                    self.limits[index].handle = None;
                }
            }
            Step::Trim { pool } => {
                if let Some((_, pool)) = self.pick(pool) {
                    pool.trim().unwrap();
                    let metrics = pool.metrics();
                    assert_eq!((metrics.cached, metrics.pending), (0, 0));
                }
            }
        }
    }

    fn check(&self, budget: &MemoryBudget) {
        for (index, limit) in self.limits.iter().enumerate() {
            if let Some(pool) = &limit.handle {
                let told = (pool.used(), pool.available());
                assert_eq!(
                    told,
                    (self.used(index), self.available(index)),
                    "limit {index}"
                );
            }
        }
        assert_eq!(budget.used(), self.used(0));
        // Rounding of what is in use, and what is idle within the allowance.
        if let Some(pool) = self.limits.iter().find_map(|limit| limit.handle.as_ref()) {
            let most = DEVICE_LIMIT + DEVICE_LIMIT / 8 + (2 << 20) + (4 << 20);
            assert!(pool.metrics().from_driver <= most, "{}", pool.metrics());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_agrees_with_the_model(
        profile in prop::sample::select(vec!["t4@11.4", "h200@12.4", "h200@13.0"]),
        steps in steps(),
    ) {
        let simulator = Sim::new(profile).unwrap();
        {
            let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
            let context = GreenContext::primary(&device, ContextPolicy::default()).unwrap();
            let streams = [(); 2].map(|()| context.create_stream().unwrap());
            let budget = MemoryBudget::new(DEVICE_LIMIT).unwrap();
            let pool = GpuMemoryPool::within(&device, &budget, DEVICE_LIMIT).unwrap();
            let limit = |bytes, parent, handle| Limit { bytes, parent, prepaid: false, handle };
            let limits = vec![
                limit(DEVICE_LIMIT, None, None),
                limit(DEVICE_LIMIT, Some(0), Some(pool)),
            ];
            let mut world = World { limits, held: Vec::new() };
            for step in &steps {
                world.step(step, &streams);
                world.check(&budget);
            }
            drop(world);
            prop_assert_eq!((budget.used(), budget.reserved()), (0, 0));
        }
        simulator.assert_no_leaks();
    }
}

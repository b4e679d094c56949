//! A library against a model of it: who is loaded, who is evicted, and whose vectors come out.

use cuda_green_embed::{EmbedFuture, Error, Lane, ModelHandle, ModelLibrary, ModelState};
use proptest::{prelude::*, test_runner::Config};

use super::{MODELS, Models, name};

const ROOM: usize = 3;
const TEXTS: [&str; 3] = ["a", "b a!", "c d e f"];

#[derive(Clone, Debug)]
enum Step {
    Get(usize),
    Copy(usize),
    Embed(usize, usize, Lane),
    Wait(usize),
    DropHandle(usize),
    DropFuture(usize),
    Pin(usize),
    Unpin(usize),
    Evict(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let model = || 0..MODELS;
    let held = || 0..8usize;
    let lane = prop::sample::select(Lane::ALL.to_vec());
    prop_oneof![
        6 => model().prop_map(Step::Get),
        1 => held().prop_map(Step::Copy),
        6 => (held(), 0..TEXTS.len(), lane).prop_map(|(held, text, lane)| Step::Embed(held, text, lane)),
        3 => held().prop_map(Step::Wait),
        5 => held().prop_map(Step::DropHandle),
        2 => held().prop_map(Step::DropFuture),
        1 => model().prop_map(Step::Pin),
        2 => model().prop_map(Step::Unpin),
        1 => model().prop_map(Step::Evict),
    ]
}

/// A loaded model, as it should be.
#[derive(Clone, Debug, Default)]
struct Loaded {
    model: usize,
    pins: usize,
}

#[derive(Default)]
struct Expected {
    /// The least recently used first.
    loaded: Vec<Loaded>,
    hits: u64,
    loads: u64,
    evictions: u64,
}

struct Run<'a> {
    models: &'a Models,
    library: ModelLibrary,
    expected: Expected,
    /// With the number of the lease, which clones share.
    handles: Vec<(usize, usize, ModelHandle)>,
    futures: Vec<(usize, usize, EmbedFuture)>,
    leases: usize,
}

impl Run<'_> {
    fn users(&self, model: usize) -> usize {
        let handles = self.handles.iter().filter(|(other, ..)| *other == model);
        let mut leases: Vec<_> = handles.map(|(_, lease, _)| *lease).collect();
        leases.dedup();
        leases.sort_unstable();
        leases.dedup();
        let futures = self.futures.iter().filter(|(other, ..)| *other == model);
        leases.len() + futures.count()
    }

    /// Returns whether a request for a model succeeds, and notes its effects.
    fn expect_get(&mut self, model: usize) -> bool {
        let mut loaded = std::mem::take(&mut self.expected.loaded);
        let found = loaded.iter().position(|one| one.model == model);
        let succeeds = if let Some(place) = found {
            let one = loaded.remove(place);
            loaded.push(one);
            self.expected.hits += 1;
            true
        } else {
            let idle = |one: &Loaded| one.pins == 0 && self.users(one.model) == 0;
            let victim = loaded.iter().position(idle);
            let has_room = loaded.len() < ROOM;
            if let Some(victim) = victim.filter(|_| !has_room) {
                loaded.remove(victim);
                self.expected.evictions += 1;
            }
            let succeeds = has_room || victim.is_some();
            if succeeds {
                loaded.push(Loaded { model, pins: 0 });
                self.expected.loads += 1;
            }
            succeeds
        };
        self.expected.loaded = loaded;
        succeeds
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Get(model) => {
                let succeeds = self.expect_get(model);
                let got = self.library.get(Some(&name(model)));
                assert_eq!(got.is_ok(), succeeds, "{got:?}");
                match got {
                    Ok(handle) => {
                        self.leases += 1;
                        self.handles.push((model, self.leases, handle));
                    }
                    Err(error) => {
                        let Error::Gpu(cuda_green::Error::NoRoomForModel { .. }) = error else {
                            panic!("{error}");
                        };
                    }
                }
            }
            Step::Copy(held) => {
                if let Some(handle) = self.handles.get(held).cloned() {
                    self.handles.push(handle);
                }
            }
            Step::Embed(held, text, lane) => {
                if let Some((model, _, handle)) = self.handles.get(held) {
                    let future = handle.lane(lane).embed(TEXTS[text]);
                    self.futures.push((*model, text, future));
                }
            }
            Step::Wait(held) if held < self.futures.len() => {
                let (model, text, future) = self.futures.remove(held);
                let vector = future.wait().unwrap();
                self.models.assert_is(model, TEXTS[text], &vector);
            }
            Step::DropFuture(held) if held < self.futures.len() => {
                drop(self.futures.remove(held));
            }
            Step::DropHandle(held) if held < self.handles.len() => {
                self.handles.remove(held);
            }
            Step::Wait(_) | Step::DropFuture(_) | Step::DropHandle(_) => {}
            Step::Pin(model) => {
                let succeeds = self.expect_get(model);
                assert_eq!(self.library.pin(&name(model)).is_ok(), succeeds);
                let loaded = &mut self.expected.loaded;
                for one in loaded.iter_mut().filter(|one| one.model == model) {
                    one.pins += 1;
                }
            }
            Step::Unpin(model) => {
                self.library.unpin(&name(model)).unwrap();
                let loaded = &mut self.expected.loaded;
                for one in loaded.iter_mut().filter(|one| one.model == model) {
                    one.pins = one.pins.saturating_sub(1);
                }
            }
            Step::Evict(model) => {
                let evicted = self.library.evict(&name(model));
                let loaded = &mut self.expected.loaded;
                let Some(place) = loaded.iter().position(|one| one.model == model) else {
                    assert_eq!(evicted.unwrap(), 0);
                    return;
                };
                if loaded[place].pins > 0 || self.users(model) > 0 {
                    let Err(Error::Gpu(cuda_green::Error::ModelInUse { .. })) = evicted else {
                        panic!("{evicted:?}");
                    };
                    return;
                }
                assert_eq!(evicted.unwrap(), self.models.bytes());
                self.expected.loaded.remove(place);
                self.expected.evictions += 1;
            }
        }
    }

    fn check(&self) {
        let status = self.library.status();
        let bytes = self.models.bytes();
        assert_eq!(status.reserved, self.expected.loaded.len() as u64 * bytes);
        let pool = self.library.memory_report().rows[0].memory;
        assert!(pool.high_water_mark <= status.budget);
        for (model, found) in status.models.iter().enumerate() {
            let mut loaded = self.expected.loaded.iter();
            let expected = loaded.find(|one| one.model == model);
            let state = expected.map_or(ModelState::Unloaded, |_| ModelState::Loaded);
            let pins = expected.map_or(0, |one| one.pins);
            assert_eq!((found.state, found.pins), (state, pins), "{status}");
            assert_eq!(found.users, self.users(model), "{status}");
        }
        let Expected {
            hits,
            loads,
            evictions,
            ..
        } = self.expected;
        assert_eq!(
            (status.hits, status.loads.count(), status.evictions),
            (hits, loads, evictions)
        );
    }
}

proptest! {
    #![proptest_config(Config { cases: 32, ..Config::default() })]

    #[test]
    fn the_budget_holds_and_each_vector_is_the_right_model_s(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let models = Models::new(MODELS);
        let mut run = Run {
            library: models.library(ROOM),
            models: &models,
            expected: Expected::default(),
            handles: Vec::new(),
            futures: Vec::new(),
            leases: 0,
        };
        for step in steps {
            run.step(step);
            run.check();
        }
        for (model, text, future) in std::mem::take(&mut run.futures) {
            models.assert_is(model, TEXTS[text], &future.wait().unwrap());
        }
        drop(run);
        models.sim.assert_no_leaks();
    }
}

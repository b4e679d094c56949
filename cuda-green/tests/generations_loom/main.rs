//! Every interleaving of a few threads over what stands behind a manager's names, by loom, over the very
//! same source files: rebalances, launches by name, lookups and destruction.
//!
//! The GPU is a model (`gpu.rs`): a launch checks that all work on any of its SMs, in whatever other context,
//! is work that it waits for.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "../../src/manager/exchange.rs"]
mod exchange;
#[path = "../../src/manager/generation.rs"]
mod generation;
#[path = "../../src/manager/partition_stream.rs"]
mod partition_stream;
/// What `src/sync.rs` is to the crate.
mod sync {
    pub(crate) use loom::sync::{
        Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    };
}
mod gpu;

pub use gpu::{
    ContextPriority, CudaDevice, Error, Event, GreenContext, Kernel, KernelArg, LaunchConfig,
    Result, Stream,
};

use exchange::{HandOff, exchange};
use generation::{Entry, Generation, Idle};
use loom::thread;
use partition_stream::PartitionStream;
use sync::{Arc, Mutex, RwLock};

/// What `SmPartitionManager` is made of: its two locks, and under them the code that is tested.
struct Manager {
    change: Mutex<()>,
    contexts: RwLock<Vec<Entry<u8>>>,
}

impl Manager {
    /// Two names with three generations each; what one has not, the other has.
    fn new() -> Self {
        let device = CudaDevice::default();
        let names: [[&[usize]; 3]; 2] = [[&[0, 1], &[0], &[1]], [&[2], &[1, 2], &[0, 2]]];
        let entries = [0u8, 1].map(|id| {
            let [first, others @ ..] = names[usize::from(id)];
            let mut entry = Entry::new(id, GreenContext::over(&device, first), first.to_vec());
            entry.generations.extend(others.map(|pieces| Generation {
                pieces: pieces.to_vec(),
                context: GreenContext::over(&device, pieces),
            }));
            entry
        });
        Self {
            change: Mutex::new(()),
            contexts: RwLock::new(entries.into()),
        }
    }

    fn rebalance(&self, target: usize, hand_off: HandOff) {
        let _change = self.change.lock().unwrap();
        let mut contexts = self.contexts.write().unwrap();
        let targets = vec![target; contexts.len()];
        exchange(&mut contexts, &targets, hand_off).unwrap();
    }

    fn get(&self, id: u8) -> Option<GreenContext> {
        let contexts = self.contexts.read().unwrap();
        let entry = contexts.iter().find(|entry| entry.id == id)?;
        Some(entry.context().clone())
    }

    fn stream(&self, id: u8) -> Option<PartitionStream> {
        let slot = {
            let contexts = self.contexts.read().unwrap();
            let entry = contexts.iter().find(|entry| entry.id == id)?;
            entry.slot.clone()
        };
        Some(PartitionStream::new(slot, ContextPriority).unwrap())
    }

    /// Whether it was destroyed; if not, it was in use.
    fn destroy(&self, id: u8) -> bool {
        let _change = self.change.lock().unwrap();
        match generation::take_out(&mut self.contexts.write().unwrap(), id) {
            // That nobody had it when it was taken out means that nobody can get it any more.
            Ok(entry) => entry.close().map(|()| true).unwrap(),
            Err(Error::ContextInUse { holders, .. }) => {
                assert!(holders > 0);
                false
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Ends all contexts that are not in force and not used; gives how many.
    fn release(&self) -> usize {
        let _change = self.change.lock().unwrap();
        let mut contexts = self.contexts.write().unwrap();
        let mut released = 0;
        for entry in contexts.iter_mut() {
            while let Some(idle) = entry.take_idle(&[]).unwrap() {
                let Idle::Context(context) = idle else {
                    panic!("only graphs give something up");
                };
                context.close().unwrap();
                released += 1;
            }
        }
        released
    }

    /// No piece is in two contexts in force.
    fn assert_disjoint(&self) {
        let contexts = self.contexts.read().unwrap();
        let mut pieces: Vec<usize> = contexts
            .iter()
            .flat_map(|entry| entry.pieces().iter().copied())
            .collect();
        let given = pieces.len();
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), given);
    }
}

fn launch(stream: &PartitionStream) {
    stream.with(Stream::submit).unwrap();
}

fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

/// Two threads launch by name while SMs go back and forth between the names.
#[test]
fn launches_by_name_never_share_sms_in_a_strict_hand_off() {
    model(3, || {
        let manager = Arc::new(Manager::new());
        let streams = [0, 1].map(|id| manager.stream(id).unwrap());
        let threads = streams.map(|stream| {
            thread::spawn(move || {
                launch(&stream);
                launch(&stream);
            })
        });
        manager.rebalance(1, HandOff::Strict);
        manager.assert_disjoint();
        manager.rebalance(0, HandOff::Strict);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Work that a relaxed hand-off let run on is waited for at the next strict one.
#[test]
fn a_strict_hand_off_covers_a_relaxed_one() {
    model(3, || {
        let manager = Arc::new(Manager::new());
        let stream = manager.stream(0).unwrap();
        let rebalances = {
            let manager = Arc::clone(&manager);
            thread::spawn(move || {
                manager.rebalance(1, HandOff::Relaxed);
                manager.rebalance(2, HandOff::Strict);
                launch(&manager.stream(1).unwrap());
            })
        };
        launch(&stream);
        launch(&stream);
        rebalances.join().unwrap();
    });
}

/// A thread looks a name up and works there, another rebalances, a third destroys.
#[test]
fn what_is_in_use_is_not_destroyed() {
    model(3, || {
        let manager = Arc::new(Manager::new());
        let user = {
            let manager = Arc::clone(&manager);
            thread::spawn(move || {
                let context = manager.get(0)?;
                let stream = context.create_stream_with_priority(ContextPriority);
                drop(context);
                stream.unwrap().submit().ok()
            })
        };
        let rebalances = {
            let manager = Arc::clone(&manager);
            thread::spawn(move || {
                manager.rebalance(1, HandOff::Relaxed);
                manager.assert_disjoint();
            })
        };
        let destroyed = manager.destroy(0);
        user.join().unwrap();
        rebalances.join().unwrap();
        assert_eq!(manager.get(0).is_none(), destroyed);
        assert!(destroyed || manager.destroy(0), "nobody uses it any more");
        manager.assert_disjoint();
    });
}

/// A stream that follows a name keeps all its generations from being destroyed.
#[test]
fn a_stream_by_name_keeps_the_name() {
    model(3, || {
        let manager = Arc::new(Manager::new());
        let stream = manager.stream(0).unwrap();
        let user = thread::spawn(move || launch(&stream));
        manager.rebalance(1, HandOff::Strict);
        let destroyed = manager.destroy(0);
        user.join().unwrap();
        assert!(destroyed || manager.destroy(0));
    });
}

/// A stream is asked for while the name is destroyed: it is there and works, or the name was gone.
#[test]
fn a_name_goes_wholly_or_not_at_all() {
    model(3, || {
        let manager = Arc::new(Manager::new());
        let user = {
            let manager = Arc::clone(&manager);
            thread::spawn(move || manager.stream(0).map(|stream| launch(&stream)))
        };
        let destroyed = manager.destroy(0);
        let served = user.join().unwrap().is_some();
        assert!(destroyed || served);
        assert!(destroyed || manager.destroy(0));
    });
}

/// A stream comes and goes while the name is destroyed, and is counted at every moment of that.
#[test]
fn a_stream_that_goes_keeps_the_name_to_its_end() {
    model(3, || {
        let manager = Arc::new(Manager::new());
        let destroyer = {
            let manager = Arc::clone(&manager);
            thread::spawn(move || manager.destroy(0))
        };
        drop(manager.stream(0));
        assert!(destroyer.join().unwrap() || manager.destroy(0));
    });
}

/// What a stream by name keeps in retired contexts is given up when those are to end, and its order holds:
/// the one used last may be among them, and one that it used before that may be in force again.
#[test]
fn a_stream_by_name_lets_go_of_what_is_retired() {
    model(2, || {
        let manager = Arc::new(Manager::new());
        let stream = manager.stream(0).unwrap();
        for target in [2, 0] {
            manager.rebalance(target, HandOff::Relaxed);
            launch(&stream);
        }
        let user = thread::spawn(move || {
            launch(&stream);
            stream
        });
        manager.rebalance(2, HandOff::Relaxed);
        assert_eq!(
            manager.release(),
            4,
            "two of each name, whatever streams follow it"
        );
        let stream = user.join().unwrap();
        launch(&stream);
        drop(stream);
        assert!(manager.destroy(0));
    });
}

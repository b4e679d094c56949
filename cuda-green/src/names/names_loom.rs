//! A model check by loom of what stands behind a manager's names, in every interleaving of a few threads: rebalances,
//! launches by name, lookups and destruction. A launch checks that all work on any of its SMs, in whatever other
//! context, is work that it waits for.

use loom::thread;

use super::{
    Generation, HandOff, NamedPartition, NotRemoved, PartitionStream, Registry, RetireStep,
    gpu_loom::{CudaDevice, GreenContext, Stream},
};
use crate::{
    device::ContextPriority,
    partition::DropLater,
    sync::{Arc, model},
};

/// The part of `SmPartitionManager` that is tested: its names.
struct Manager(Registry<u8>);

impl Manager {
    /// Two names with three generations each; what one has not, the other has.
    fn new() -> Self {
        let device = CudaDevice::default();
        let names: [[&[usize]; 3]; 2] = [[&[0, 1], &[0], &[1]], [&[2], &[1, 2], &[0, 2]]];
        let partitions = [0u8, 1].map(|id| {
            let [first, others @ ..] = names[usize::from(id)];
            let mut partition = NamedPartition::new(
                Arc::new(id),
                GreenContext::over(&device, first),
                first.to_vec(),
            );
            for pieces in others {
                partition.add_generation(Generation {
                    pieces: pieces.to_vec(),
                    context: GreenContext::over(&device, pieces),
                });
            }
            partition
        });
        let registry = Registry::new(false);
        registry.begin_change().add(partitions);
        Self(registry)
    }

    fn rebalance(&self, target: usize, hand_off: HandOff) {
        let change = self.0.begin_change();
        let targets: Vec<_> = (0..self.0.ids().len())
            .map(|index| (index, target))
            .collect();
        change.put_in_force(&targets, hand_off).unwrap();
    }

    fn get(&self, id: u8) -> Option<GreenContext> {
        self.0.context(|own| *own == id)
    }

    fn stream(&self, id: u8) -> Option<PartitionStream> {
        let followed = self.0.follow(|own| *own == id)?;
        Some(PartitionStream::new(followed).unwrap())
    }

    /// Whether it was destroyed; if not, it was in use.
    fn destroy(&self, id: u8) -> bool {
        let change = self.0.begin_change();
        let index = self.0.ids().iter().position(|own| **own == id);
        match change.remove(index.unwrap()) {
            // It had no user when it was taken out, and none can appear after that.
            Ok(partition) => partition.close().map(|()| true).unwrap(),
            Err(NotRemoved::InUse(holders)) => {
                assert!(holders > 0);
                false
            }
            Err(NotRemoved::Error(error)) => panic!("{error:?}"),
        }
    }

    /// Ends all contexts that are not in force and not used; gives how many.
    fn release(&self) -> usize {
        let mut released = 0;
        loop {
            let mut later = DropLater::new();
            let change = self.0.begin_change();
            match change.retire(&[], &mut later).unwrap() {
                None => return released,
                Some(RetireStep::GaveUp) => {}
                Some(RetireStep::TookOut(context)) => {
                    context.close().unwrap();
                    released += 1;
                }
            }
        }
    }

    /// No piece is in two contexts in force.
    fn assert_disjoint(&self) {
        let pieces = self.0.each_in_force(|_, context| context.pieces().to_vec());
        let mut pieces: Vec<usize> = pieces.concat();
        let given = pieces.len();
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), given);
    }
}

fn launch(stream: &PartitionStream) {
    stream.with(Stream::submit).unwrap();
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
                let stream = context.create_stream_with_priority(ContextPriority::Medium);
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
        assert!(destroyed || manager.destroy(0), "it has no user any more");
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

/// Who uses a stream by name may look names up meanwhile, also while a rebalance waits for that use.
#[test]
fn names_are_looked_up_while_a_rebalance_waits() {
    model(3, || {
        let manager = Arc::new(Manager::new());
        let stream = manager.stream(0).unwrap();
        let user = {
            let manager = Arc::clone(&manager);
            thread::spawn(move || {
                let looked_up = stream.with(|stream| {
                    stream.submit()?;
                    Ok(manager.get(1).is_some())
                });
                assert!(looked_up.unwrap());
            })
        };
        manager.rebalance(1, HandOff::Strict);
        user.join().unwrap();
        manager.release();
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

//! Client's code that calls the manager back, wherever the manager runs or ends any: closures, ids, what graphs
//! kept. Nothing waits for itself.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::ends::ends;
use cuda_green::{
    CaptureMode, ContextId, Driver, Error, GreenContextConfig, HandOff, PartitionGraph,
    RebalanceHint, Result, SmPartitionManager, planner::PartitionRequest,
};

fn quad() -> Arc<SmPartitionManager> {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let manager = SmPartitionManager::on(&driver.device(0).unwrap()).unwrap();
    manager.init_quad_partition().unwrap();
    Arc::new(manager)
}

fn inside<T: fmt::Debug>(result: Result<T>) {
    let refused = matches!(result, Err(Error::InsidePartitionStream));
    assert!(refused, "{result:?}");
}

/// What may be done while a stream of a name is used, and what is refused.
fn try_everything(manager: &SmPartitionManager) {
    let config = GreenContextConfig {
        sm_count: 8,
        ..GreenContextConfig::default()
    };
    let request = PartitionRequest::at_least(8);
    inside(manager.rebalance(RebalanceHint::EmbeddingHeavy));
    inside(manager.rebalance_with(RebalanceHint::Balanced, HandOff::Relaxed));
    inside(manager.provision_rebalance());
    inside(manager.release_retired());
    inside(manager.destroy_context(ContextId::Dream));
    inside(manager.create_stream(ContextId::Dream));
    inside(manager.init_quad_partition());
    inside(manager.create_contexts(&[(ContextId::Dream, config)]));
    inside(manager.create_partitions(&[(ContextId::Dream, request, config.policy())]));
    let other = SmPartitionManager::on(manager.device()).unwrap();
    inside(other.create_context(ContextId::Dream, config));

    assert_eq!(manager.allocation_status().contexts.len(), 4);
    manager.set_context_limit(None);
    manager.memory_report();
    let dream = manager.get_context(ContextId::Dream).unwrap();
    dream.create_stream().unwrap().synchronize().unwrap();
    manager.activate(ContextId::Dream).unwrap().close().unwrap();
    manager.verify().unwrap();
}

#[test]
fn what_waits_for_a_rebalance_is_refused_while_one_is_held_off() {
    ends(|| {
        let manager = quad();
        let stream = manager.create_stream(ContextId::Training).unwrap();
        let other = manager.create_stream(ContextId::Dream).unwrap();
        let streams = [&stream, &other];
        stream
            .with(|_| {
                try_everything(&manager);
                for stream in streams {
                    inside(stream.with(|_| Ok(())));
                    inside(stream.synchronize());
                }
                Ok(())
            })
            .unwrap();
        // It is over with the closure, on every path.
        let failed: Result<()> = stream.with(|_| Err(Error::GuardActive));
        assert!(matches!(failed, Err(Error::GuardActive)));
        manager.rebalance(RebalanceHint::TrainingActive).unwrap();

        let asking = manager.clone();
        let graph = PartitionGraph::new(move |_| {
            inside(asking.rebalance(RebalanceHint::Balanced));
            asking.get_context(ContextId::Dream).map(drop)
        });
        // SAFETY: nothing was captured.
        unsafe { graph.launch(&stream).unwrap() };
        graph.prepare(&stream).unwrap();
    });
}

/// While a stream of a name is used and a rebalance waits for that, names can be looked up: inside, and by others.
#[test]
fn names_can_be_looked_up_while_a_rebalance_waits() {
    ends(|| {
        for step in ["rebalance", "release", "room"] {
            let manager = quad();
            let stream = manager.create_stream(ContextId::Training).unwrap();
            if step != "rebalance" {
                // The stream keeps something in a context that is not in force, which it is asked for.
                manager.rebalance(RebalanceHint::TrainingActive).unwrap();
                stream.with(|_| Ok(())).unwrap();
                manager.set_context_limit((step == "room").then_some(7));
            }
            std::thread::scope(|scope| {
                let change = || match step {
                    "release" => manager.release_retired().map(drop),
                    _ => manager.rebalance(RebalanceHint::DreamActive),
                };
                let waiting = stream
                    .with(|_| {
                        let waiting = scope.spawn(change);
                        // Whether it waits already cannot be told; a while is enough for that.
                        std::thread::sleep(Duration::from_millis(50));
                        let look_up = || {
                            for id in ContextId::ALL {
                                manager.get_context(id).unwrap();
                            }
                            manager.allocation_status();
                        };
                        look_up();
                        scope.spawn(look_up).join().unwrap();
                        Ok(waiting)
                    })
                    .unwrap();
                waiting.join().unwrap().unwrap();
            });
        }
    });
}

/// Asks a manager for all that takes its locks, when it is dropped.
struct Asks(Arc<SmPartitionManager>, Arc<AtomicUsize>);

impl Drop for Asks {
    fn drop(&mut self) {
        self.0.get_context(ContextId::Embedding).unwrap();
        self.0.allocation_status();
        match self.0.release_retired() {
            Ok(_) | Err(Error::InsidePartitionStream) => {}
            Err(error) => panic!("{error}"),
        }
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

/// A graph is dropped by its owner at the moment when the manager asks it to give something up: whoever of the two
/// comes last ends what it kept, which calls the manager.
#[test]
fn a_graph_may_end_while_it_is_asked_to_give_up() {
    ends(|| {
        let (manager, ended) = (quad(), Arc::new(AtomicUsize::new(0)));
        let rounds = 300;
        for _ in 0..rounds {
            let keeping = (manager.clone(), ended.clone());
            let graph = PartitionGraph::new(move |capture| {
                capture.keep(Asks(keeping.0.clone(), keeping.1.clone()));
                Ok(())
            });
            let stream = manager.create_stream(ContextId::Training).unwrap();
            // SAFETY: nothing was captured.
            unsafe { graph.launch(&stream).unwrap() };
            manager.rebalance(RebalanceHint::TrainingActive).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| manager.release_retired().unwrap());
                drop(graph);
            });
            drop(stream);
            manager.rebalance(RebalanceHint::Balanced).unwrap();
        }
        assert_eq!(ended.load(Ordering::Relaxed), rounds);
    });
}

/// A graph that was launched in streams of contexts alone is asked, too.
#[test]
fn a_graph_that_no_name_knows_is_given_up() {
    let manager = quad();
    let graph = PartitionGraph::with_mode(CaptureMode::Relaxed, |_| Ok(()));
    let stream = {
        let training = manager.get_context(ContextId::Training).unwrap();
        training.create_stream().unwrap()
    };
    // SAFETY: nothing was captured.
    unsafe { graph.launch_in(&stream).unwrap() };
    drop(stream);
    manager.rebalance(RebalanceHint::TrainingActive).unwrap();
    assert_eq!(graph.instantiations(), 1);
    assert_eq!(manager.release_retired().unwrap(), 3);
    assert_eq!(graph.instantiations(), 0);
}

thread_local! {
    /// Whether this thread calls the manager from an id already.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

static NOSY: OnceLock<SmPartitionManager<Nosy>> = OnceLock::new();
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// An id that calls the manager whatever is done with it.
struct Nosy(u32);

fn ask() {
    let Some(manager) = NOSY.get() else { return };
    if ASKING.replace(true) {
        return;
    }
    manager.allocation_status();
    manager.memory_report();
    match manager.release_retired() {
        Ok(_) | Err(Error::InsidePartitionStream) => {}
        Err(error) => panic!("{error}"),
    }
    ASKED.fetch_add(1, Ordering::Relaxed);
    ASKING.set(false);
}

impl Clone for Nosy {
    fn clone(&self) -> Self {
        ask();
        Self(self.0)
    }
}

impl PartialEq for Nosy {
    fn eq(&self, other: &Self) -> bool {
        ask();
        self.0 == other.0
    }
}

impl Eq for Nosy {}

impl fmt::Debug for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ask();
        write!(f, "{}", self.0)
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        ask();
    }
}

#[test]
fn ids_may_call_the_manager_whatever_is_done_with_them() {
    ends(|| {
        let device = Driver::open(&"sim:h200@13.0".parse().unwrap())
            .and_then(|driver| driver.device(0))
            .unwrap();
        let manager = NOSY.get_or_init(|| SmPartitionManager::with_ids(&device).unwrap());
        let config = GreenContextConfig {
            sm_count: 16,
            ..GreenContextConfig::default()
        };
        let all = || [1, 2, 3].map(|id| (Nosy(id), config));
        let too_many =
            [1, 2, 3].map(|id| (Nosy(id), PartitionRequest::at_least(64), config.policy()));
        assert!(manager.create_partitions(&too_many).is_err());
        manager.create_contexts(&all()).unwrap();
        assert!(manager.create_contexts(&all()).is_err());
        assert!(manager.create_context(Nosy(2), config).is_err());
        assert!(
            manager
                .create_context(
                    Nosy(4),
                    GreenContextConfig {
                        sm_count: 500,
                        ..config
                    }
                )
                .is_err()
        );
        drop(manager.create_context(Nosy(4), config).unwrap());

        let stream = manager.create_stream(Nosy(1)).unwrap();
        manager
            .rebalance_for(Some(&Nosy(1)), HandOff::Strict)
            .unwrap();
        manager.provision_rebalance_for(Some(&Nosy(2))).unwrap();
        assert!(
            manager
                .rebalance_for(Some(&Nosy(9)), HandOff::Strict)
                .is_err()
        );
        assert!(manager.get_context(Nosy(9)).is_err());
        let raw = stream.with(|stream| Ok(stream.raw())).unwrap();
        // SAFETY: the stream is live.
        let home = unsafe { manager.stream_home(raw).unwrap() };
        assert!(format!("{home:?}").contains('1'));
        manager.activate(Nosy(1)).unwrap().close().unwrap();
        manager.set_current(Nosy(2)).unwrap();
        manager.unset_current().unwrap();
        manager.verify().unwrap();
        manager.get_context(Nosy(3)).unwrap().memory().unwrap();
        assert!(
            format!(
                "{} {}",
                manager.allocation_status(),
                manager.memory_report()
            )
            .contains('3')
        );

        assert!(manager.destroy_context(Nosy(9)).is_err());
        let in_use = manager.destroy_context(Nosy(1)).unwrap_err();
        assert!(matches!(in_use, Error::ContextInUse { .. }), "{in_use}");
        drop(stream);
        manager.rebalance_for(None, HandOff::Strict).unwrap();
        for id in 1..=4 {
            manager.destroy_context(Nosy(id)).unwrap();
        }
        assert!(ASKED.load(Ordering::Relaxed) > 50);
    });
}

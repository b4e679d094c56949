//! Random sequences of calls to a manager, on random simulated drivers: no SM is ever in two contexts, no
//! more are given than there are, refusals change nothing, and nothing is left in the end.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::collections::{BTreeMap, BTreeSet};

use cuda_green::{
    CudaDevice, Driver, Error, GreenContext, GreenContextConfig, PartitionMode, SmPartitionManager,
    sim::Sim,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Create {
        id: u8,
        sms: u32,
    },
    Destroy {
        id: u8,
    },
    /// Takes a handle, which keeps the context from being destroyed.
    Hold {
        id: u8,
    },
    Release {
        id: u8,
    },
    /// Activates; `beside`, while a second thread does so too.
    Activate {
        id: u8,
        beside: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0..6u8;
    let step = prop_oneof![
        4 => (id.clone(), prop_oneof![0..10u32, 1..80u32, 100..200u32])
            .prop_map(|(id, sms)| Step::Create { id, sms }),
        3 => id.clone().prop_map(|id| Step::Destroy { id }),
        1 => id.clone().prop_map(|id| Step::Hold { id }),
        1 => id.clone().prop_map(|id| Step::Release { id }),
        1 => (id, any::<bool>()).prop_map(|(id, beside)| Step::Activate { id, beside }),
    ];
    prop::collection::vec(step, 1..30)
}

fn profile() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "t4@11.4",
        "t4@12.4",
        "a100@12.4",
        "a100@12.8",
        "h200@12.4",
        "h200@12.5",
        "h200@13.0",
        "h200@13.1",
        "rtx5090@12.8",
        "rtx5090@13.1",
        "gb10@13.0",
        "gb10@13.3",
        "h200@13.5",
    ])
}

/// What the manager should hold, and the SMs that each context was seen on.
#[derive(Default)]
struct Model {
    contexts: BTreeMap<u8, BTreeSet<u32>>,
    held: BTreeMap<u8, GreenContext>,
}

fn run(device: &CudaDevice, steps: &[Step]) -> cuda_green::Result<()> {
    let manager: SmPartitionManager<u8> = SmPartitionManager::with_ids(device)?;
    let partitioned = manager.allocation_status().mode == PartitionMode::Partitioned;
    let total = manager.allocation_status().total_sms;
    let mut model = Model::default();
    for step in steps {
        let before = manager.allocation_status();
        let refused = match *step {
            Step::Create { id, sms } => {
                let config = GreenContextConfig {
                    sm_count: sms,
                    ..GreenContextConfig::default()
                };
                match manager.create_context(id, config) {
                    Ok(context) => {
                        assert!(!model.contexts.contains_key(&id) && sms > 0);
                        assert!(context.sm_count() >= sms);
                        let ids: BTreeSet<u32> = context.observed_sm_ids()?.into_iter().collect();
                        assert_eq!(ids.len() as u32, context.sm_count());
                        if partitioned {
                            let taken = model
                                .contexts
                                .values()
                                .any(|other| !other.is_disjoint(&ids));
                            assert!(!taken, "{id} overlaps another context");
                        }
                        model.contexts.insert(id, ids);
                        None
                    }
                    Err(error) => {
                        match &error {
                            Error::ContextExists { .. } => {
                                assert!(model.contexts.contains_key(&id))
                            }
                            Error::InvalidArgument { .. } => assert_eq!(sms, 0),
                            Error::InsufficientSms {
                                asked, available, ..
                            } => {
                                assert_eq!(*asked, sms);
                                assert!(*available < sms, "{error}");
                            }
                            other => panic!("{other}"),
                        }
                        Some(error)
                    }
                }
            }
            Step::Destroy { id } => match manager.destroy_context(id) {
                Ok(()) => {
                    assert!(model.contexts.remove(&id).is_some() && !model.held.contains_key(&id));
                    None
                }
                Err(error) => {
                    match &error {
                        Error::NoSuchContext { .. } => assert!(!model.contexts.contains_key(&id)),
                        Error::ContextInUse { .. } => assert!(model.held.contains_key(&id)),
                        other => panic!("{other}"),
                    }
                    Some(error)
                }
            },
            Step::Hold { id } => manager
                .get_context(id)
                .map(|context| drop(model.held.insert(id, context)))
                .err(),
            Step::Release { id } => {
                model.held.remove(&id);
                None
            }
            Step::Activate { id, beside } => match manager.activate(id) {
                Ok(guard) => {
                    if beside {
                        std::thread::scope(|scope| {
                            let other = scope.spawn(|| {
                                manager
                                    .activate(id)
                                    .map(|guard| guard.raw_context() as usize)
                            });
                            let other = other.join().unwrap().unwrap();
                            let shared = !partitioned || device.capabilities().shared_current;
                            assert_eq!(other == guard.raw_context() as usize, shared);
                        });
                    }
                    guard.close()?;
                    None
                }
                Err(error) => Some(error),
            },
        };
        let status = manager.allocation_status();
        if let Some(error) = refused {
            assert_eq!(status, before, "{error} changed something");
        }
        assert_eq!(status.contexts.len(), model.contexts.len());
        assert!(status.allocated_sms <= total);
        if partitioned {
            let given: usize = model.contexts.values().map(BTreeSet::len).sum();
            assert_eq!(status.allocated_sms as usize, given);
            assert_eq!(
                status.allocated_sms + status.available_sms + status.stranded_sms,
                total
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_the_promises(profile in profile(), steps in steps()) {
        let simulator = Sim::new(profile).unwrap();
        {
            let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
            run(&device, &steps).unwrap();
        }
        let live = simulator.live_objects();
        prop_assert!(live.is_empty(), "left behind: {live}");
    }
}

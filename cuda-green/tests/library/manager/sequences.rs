//! Random sequences of calls to a manager, on random simulated drivers: no SM is ever in two contexts, no
//! more are given than there are, refusals change nothing, and nothing is left in the end.

use std::collections::{BTreeMap, BTreeSet};

use cuda_green::{
    ContextPolicy, CudaDevice, Driver, Error, GreenContext, GreenContextConfig, PartitionMode,
    SmPartitionManager,
    planner::{PartitionRequest, SmRequest},
    sim::Sim,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Create {
        id: u8,
        sms: u32,
    },
    /// One by a request of any kind.
    CreateOne {
        id: u8,
        request: PartitionRequest,
    },
    /// All at once, with the ids from 0 on.
    CreateAll {
        requests: Vec<PartitionRequest>,
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

/// Requests that sometimes fit and sometimes cannot.
fn request() -> impl Strategy<Value = PartitionRequest> {
    let sms = prop_oneof![
        4 => (0..70u32).prop_map(SmRequest::AtLeast),
        3 => (1..70u32).prop_map(SmRequest::Target),
        2 => (0..60u32).prop_map(SmRequest::Percent),
        2 => (0..40u32, 0..4u32)
            .prop_map(|(at_least, weight)| SmRequest::Share { at_least, weight }),
        1 => Just(SmRequest::Rest),
    ];
    let cluster = prop::sample::select(vec![1, 1, 1, 1, 1, 1, 2, 4, 8, 3]);
    let request = (sms, cluster, prop::bool::weighted(0.1));
    request.prop_map(|(sms, cluster, exact)| {
        let request = PartitionRequest::from(sms).cluster(cluster);
        if exact { request.exact() } else { request }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0..6u8;
    let step = prop_oneof![
        4 => (id.clone(), prop_oneof![0..10u32, 1..80u32, 100..200u32])
            .prop_map(|(id, sms)| Step::Create { id, sms }),
        2 => (id.clone(), request()).prop_map(|(id, request)| Step::CreateOne { id, request }),
        1 => prop::collection::vec(request(), 0..6)
            .prop_map(|requests| Step::CreateAll { requests }),
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
        "b200@12.4",
        "rtx5090@12.4",
        "a100@12.8",
        "h200@12.4",
        "h200@12.5",
        "h200@13.0",
        "h200@13.1",
        "rtx5090@12.8",
        "rtx5090@13.1",
        "gb10@13.0",
        "gb10@13.3",
        "h200@newest",
    ])
}

/// What the manager should hold, and the SMs that each context was seen on.
#[derive(Default)]
struct Model {
    contexts: BTreeMap<u8, BTreeSet<u32>>,
    held: BTreeMap<u8, GreenContext>,
}

impl Model {
    /// Notes where a new context's blocks run: on as many SMs as it says, which are nobody else's.
    fn add(&mut self, id: u8, context: &GreenContext) -> cuda_green::Result<()> {
        let ids: BTreeSet<u32> = context.observed_sm_ids()?.into_iter().collect();
        assert_eq!(ids.len() as u32, context.sm_count());
        if context.is_partitioned() {
            let mut others = self.contexts.values();
            assert!(others.all(|other| other.is_disjoint(&ids)), "{id} overlaps");
        }
        assert!(self.contexts.insert(id, ids).is_none(), "{id} was there");
        Ok(())
    }
}

/// One by a request: it has what was asked, or the error says what is in the way.
fn create_one(
    manager: &SmPartitionManager<u8>,
    model: &mut Model,
    id: u8,
    request: PartitionRequest,
) -> cuda_green::Result<Option<Error>> {
    let before = manager.allocation_status();
    let context = match manager.create_partition(id, request, ContextPolicy::default()) {
        Ok(context) => context,
        Err(error) => {
            let is_right = match &error {
                Error::ContextExists { .. } => model.contexts.contains_key(&id),
                Error::InvalidArgument { .. } => true,
                Error::InsufficientSms {
                    asked, available, ..
                } => available < asked,
                Error::ClusterUnavailable { asked, best, .. } => {
                    best < asked && *asked == request.cluster
                }
                Error::UnitsTooCoarse { .. } => {
                    let is_target =
                        matches!(request.sms, SmRequest::Target(_) | SmRequest::Percent(_));
                    request.exact || is_target
                }
                _ => false,
            };
            assert!(is_right, "{request:?} of {before}: {error}");
            return Ok(Some(error));
        }
    };
    model.add(id, &context)?;
    if !context.is_partitioned() {
        return Ok(None);
    }
    assert!(context.max_cluster_size() >= request.cluster);
    let sms = context.sm_count();
    let total = before.total_sms;
    match request.sms {
        SmRequest::AtLeast(count) => {
            assert!(sms >= count);
            assert!(!request.exact || sms <= count + 1 + request.cluster);
        }
        SmRequest::Target(count) => assert!(sms <= count.max(8)),
        SmRequest::Percent(percent) => assert!(sms <= (total * percent / 100).max(8)),
        SmRequest::Share { at_least, .. } => assert!(sms >= at_least),
        SmRequest::Rest if request.cluster == 1 && manager.device().capabilities().merge => {
            // All, but for what does not join: SMs that a split left over, from 13.1 on.
            let left = manager.allocation_status().available_sms;
            assert!(left <= sms, "{left} left beside {sms}");
        }
        _ => {}
    }
    Ok(None)
}

/// All at once: what the plan says, or its error; nothing beside contexts that are there.
fn create_all(
    manager: &SmPartitionManager<u8>,
    model: &mut Model,
    requests: &[PartitionRequest],
) -> cuda_green::Result<Option<Error>> {
    let policy = ContextPolicy::default();
    let partitions: Vec<_> = (0u8..)
        .zip(requests)
        .map(|(id, request)| (id, *request, policy))
        .collect();
    let plan = manager.plan(requests);
    if let Err(error) = manager.create_partitions(&partitions) {
        match (&error, plan) {
            (Error::AlreadyPartitioned { contexts }, _) => {
                assert!(*contexts > 0 && *contexts == model.contexts.len());
            }
            (_, Err(Error::NotPartitioned { .. })) => {}
            (error, Err(predicted)) => assert_eq!(error.to_string(), predicted.to_string()),
            (error, Ok(plan)) => panic!("{plan} was planned: {error}"),
        }
        return Ok(Some(error));
    }
    assert!(model.contexts.is_empty());
    for (id, request, _) in partitions {
        let context = manager.get_context(id)?;
        model.add(id, &context)?;
        assert!(context.max_cluster_size() >= request.cluster);
        if let SmRequest::AtLeast(least) = request.sms {
            assert!(context.sm_count() >= least);
        }
        if let Ok(plan) = &plan {
            let planned = plan.partitions.get(usize::from(id)).unwrap();
            assert_eq!(context.sm_count(), planned.sm_count, "{plan}");
        }
    }
    Ok(None)
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
                        model.add(id, &context)?;
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
            Step::CreateOne { id, request } => create_one(&manager, &mut model, id, request)?,
            Step::CreateAll { ref requests } => create_all(&manager, &mut model, requests)?,
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
        assert!(!model.contexts.is_empty() || status.scaffold_contexts == 0);
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

//! Contexts made one by one: their sizes, and what is left for the next.

use std::collections::{BTreeMap, BTreeSet};

use cuda_green::{
    ContextPolicy, Driver, Error, GreenContextConfig, HandOff, SmPartitionManager,
    planner::PartitionRequest as R, sim::Sim,
};
use proptest::prelude::*;

use super::predictions::run;

/// One by one, contexts have what was asked to 2 SMs from 13.1 on, clusters and all, until nothing is left; and the
/// whole device is there again in the end.
#[test]
fn one_by_one_sizes_are_exact_from_13_1_on() {
    for profile in ["h200@13.1", "h200@newest", "rtx5090@13.1", "gb10@13.3"] {
        let simulator = Sim::new(profile).unwrap();
        {
            let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
            let total = device.properties().multiprocessor_count;
            let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device).unwrap();
            let sequences =
                prop::collection::vec((1..=total / 2, any::<bool>(), any::<u8>()), 1..12);
            run(sequences, |sequence| {
                let mut given: BTreeMap<u32, u32> = BTreeMap::new();
                for ((asked, exact, gone), id) in sequence.into_iter().zip(0..) {
                    let request = R::at_least(asked);
                    let request = if exact { request.exact() } else { request };
                    match manager.create_partition(id, request, ContextPolicy::default()) {
                        Ok(context) => {
                            prop_assert_eq!(context.sm_count(), asked.next_multiple_of(2));
                            prop_assert!(context.max_cluster_size() >= 2);
                            given.insert(id, context.sm_count());
                        }
                        Err(Error::InsufficientSms { available, .. }) => {
                            prop_assert!(available < asked, "{available} for {asked}");
                        }
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                    let status = manager.allocation_status();
                    prop_assert_eq!(status.allocated_sms, given.values().sum::<u32>());
                    prop_assert_eq!(status.allocated_sms + status.available_sms, total);
                    if gone % 3 == 0
                        && let Some(id) = given.keys().next().copied()
                    {
                        given.remove(&id);
                        manager.destroy_context(id).unwrap();
                    }
                }
                let mut seen = BTreeSet::new();
                for (id, size) in &given {
                    let ids = manager.get_context(*id).unwrap().observed_sm_ids().unwrap();
                    prop_assert_eq!(ids.len() as u32, *size);
                    prop_assert!(ids.into_iter().all(|id| seen.insert(id)));
                }
                for id in given.into_keys() {
                    manager.destroy_context(id).unwrap();
                }
                prop_assert_eq!(manager.allocation_status().scaffold_contexts, 0);
                Ok(())
            });
            let all = manager
                .create_context(
                    0,
                    GreenContextConfig {
                        sm_count: total,
                        ..GreenContextConfig::default()
                    },
                )
                .unwrap();
            assert_eq!(all.sm_count(), total, "{profile}");
        }
        assert!(simulator.live_objects().is_empty(), "{profile}");
    }
}

/// By hand: what is left of units goes on to small ones, directly where a structured split left it.
#[test]
fn units_are_cut_to_size_one_by_one() {
    let device = |profile| {
        let simulator = Sim::new(profile).unwrap();
        Driver::simulated(&simulator).unwrap().device(0).unwrap()
    };
    let policy = ContextPolicy::default();
    let manager: SmPartitionManager<u32> =
        SmPartitionManager::with_ids(&device("h200@13.1")).unwrap();
    let create = |id, request| {
        let context = manager.create_partition(id, request, policy)?;
        let status = manager.allocation_status();
        Ok::<_, Error>((
            context.sm_count(),
            context.max_cluster_size(),
            status.scaffold_contexts,
        ))
    };
    // The split is made for the first: 8 + 14 and units.
    assert_eq!(create(1, R::at_least(22)).unwrap(), (22, 8, 0));
    assert_eq!(
        create(2, R::at_least(22).exact().cluster(8)).unwrap(),
        (22, 8, 0)
    );
    assert_eq!(create(3, R::at_least(18).exact()).unwrap(), (18, 8, 1)); // of 24, leaves 6
    assert_eq!(create(4, R::at_least(64)).unwrap(), (64, 8, 1));
    assert_eq!(create(5, R::at_least(4)).unwrap(), (4, 2, 1)); // of those 6, without a scaffold
    assert_eq!(create(6, R::target(3)).unwrap(), (2, 2, 1));
    let none = create(7, R::at_least(2)).unwrap_err();
    assert!(
        matches!(none, Error::InsufficientSms { available: 0, .. }),
        "{none}"
    );
    let cut = manager
        .rebalance_for(Some(&3), HandOff::Strict)
        .unwrap_err();
    assert!(matches!(cut, Error::IncompatibleResources { .. }), "{cut}");
    manager.rebalance_for(Some(&4), HandOff::Strict).unwrap();
    manager.rebalance_for(None, HandOff::Strict).unwrap();
    for id in [3, 6, 5] {
        manager.destroy_context(id).unwrap();
    }
    assert_eq!(manager.allocation_status().scaffold_contexts, 0);
    assert_eq!(create(8, R::at_least(24)).unwrap(), (24, 8, 0));
    // On older drivers larger groups, where units do not come to the first's size.
    for (profile, expected) in [("h200@12.4", 128), ("h200@12.5", 128), ("h200@13.0", 128)] {
        let manager: SmPartitionManager<u32> =
            SmPartitionManager::with_ids(&device(profile)).unwrap();
        let context = manager
            .create_partition(1, R::at_least(128), policy)
            .unwrap();
        assert_eq!(context.sm_count(), expected, "{profile}");
        let rest = manager.create_partition(2, R::rest(), policy).unwrap();
        assert_eq!(rest.sm_count(), 4, "{profile}");
    }
}

//! The planner's predictions against what a simulated driver then does: every single count, every pair on a
//! grid, quads, percents and weights, on every device and at every step of the API's history.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod clusters;
mod oracle;

use std::collections::{BTreeMap, BTreeSet};

use clusters::largest_cluster;
use oracle::{Oracle, worth};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use cuda_green::{
    CudaDevice, Driver, Error, GreenContextConfig, Kernel, Module, SmPartitionManager, kernels,
    planner::{DeviceFacts, PartitionRequest as R, Plan, SmRequest, SplitStrategy},
    sim::{Injection, Sim},
    sys::CUresult,
};

/// Each device with every version in which the ways to split differ, and the newest.
fn on_each(devices: &[&str], check: impl Fn(&CudaDevice, &str)) {
    for device in devices {
        for version in ["12.4", "12.5", "13.0", "13.1", "newest"] {
            let profile = format!("{device}@{version}");
            let simulator = Sim::new(&profile).unwrap();
            let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
            check(&device, &profile);
            drop(device);
            assert!(simulator.live_objects().is_empty(), "{profile}");
        }
    }
}

/// Each kind of granularity and topology; the devices that are left out are like one of these.
const DEVICES: [&str; 6] = ["t4", "a100", "h200", "b200", "rtx5090", "gb10"];

struct Checker<'a> {
    profile: &'a str,
    manager: SmPartitionManager<usize>,
    kernel: Kernel,
    made: std::cell::Cell<u32>,
}

impl<'a> Checker<'a> {
    fn new(device: &CudaDevice, profile: &'a str) -> Self {
        Self {
            profile,
            manager: SmPartitionManager::with_ids(device).unwrap(),
            kernel: Module::load_ptx(device, kernels::PTX)
                .unwrap()
                .kernel(kernels::BURN)
                .unwrap(),
            made: 0.into(),
        }
    }

    /// The contexts are those of the plan, or the error is; gives the sizes.
    fn same(&self, requests: &[R]) -> Option<Vec<u32>> {
        let what = || format!("{}: {requests:?}", self.profile);
        let config = GreenContextConfig::default();
        let partitions: Vec<_> = requests
            .iter()
            .enumerate()
            .map(|(id, request)| (id, *request, config))
            .collect();
        let plan = match (
            self.manager.plan(requests),
            self.manager.create_partitions(&partitions),
        ) {
            (Ok(plan), Ok(())) => plan,
            (Err(predicted), Err(error)) => {
                assert_eq!(predicted.to_string(), error.to_string(), "{}", what());
                assert!(
                    matches!(
                        error,
                        Error::InsufficientSms { .. }
                            | Error::UnitsTooCoarse { .. }
                            | Error::ClusterUnavailable { .. }
                    ),
                    "{}: {error}",
                    what()
                );
                return None;
            }
            (plan, made) => panic!("{}: {plan:?}, but {made:?}", what()),
        };
        let status = self.manager.allocation_status();
        let sizes: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
        let made: Vec<u32> = status.contexts.iter().map(|one| one.sm_count).collect();
        assert_eq!(sizes, made, "{}: {plan}", what());
        let clusters = plan.partitions.iter().map(|one| one.max_cluster);
        assert!(
            clusters.eq(status.contexts.iter().map(|one| one.max_cluster_size)),
            "{}: {plan}",
            what()
        );
        assert_eq!(
            (status.strategy, &status.refused, status.scaffold_contexts),
            (Some(plan.strategy), &plan.refused, plan.nested.len()),
            "{}: {plan}",
            what()
        );
        assert_eq!(
            (status.available_sms, status.stranded_sms),
            (plan.left_over, plan.stranded),
            "{}: {plan}",
            what()
        );
        self.clusters_run(&plan);
        // Where the blocks really run, now and then: it takes longer than all the rest.
        self.made.set(self.made.get() + 1);
        if self.made.get() % 61 == 1 {
            let mut seen = BTreeSet::new();
            for (id, size) in sizes.iter().enumerate() {
                let ids = self
                    .manager
                    .get_context(id)
                    .unwrap()
                    .observed_sm_ids()
                    .unwrap();
                assert_eq!(ids.len() as u32, *size, "{}: {plan}", what());
                assert!(
                    ids.into_iter().all(|id| seen.insert(id)),
                    "{}: {plan}",
                    what()
                );
            }
        }
        for id in 0..requests.len() {
            self.manager.destroy_context(id).unwrap();
        }
        Some(sizes)
    }
}

impl Checker<'_> {
    /// A promised cluster runs: the driver's occupancy calculation has none smaller.
    fn clusters_run(&self, plan: &Plan) {
        for (id, planned) in plan.partitions.iter().enumerate() {
            if planned.max_cluster == 1 {
                continue;
            }
            let context = self.manager.get_context(id).unwrap();
            let largest = largest_cluster(&self.kernel, &context).unwrap();
            assert!(largest >= planned.max_cluster, "{}: {plan:?}", self.profile);
        }
    }
}

#[test]
fn every_single_count() {
    on_each(&DEVICES, |device, profile| {
        let checker = Checker::new(device, profile);
        let total = device.properties().multiprocessor_count;
        for count in 1..=total + 2 {
            let sizes = checker.same(&[R::at_least(count)]);
            assert_eq!(sizes.is_some(), count <= total, "{profile}: {count}");
            if let Some(sizes) = sizes {
                assert!(
                    sizes[0] >= count && sizes[0] < count + 8,
                    "{profile}: {count}"
                );
            }
            if count <= total {
                let target = checker.same(&[R::target(count)]);
                let target = target.unwrap_or_else(|| panic!("{profile}: {count}"));
                assert!(target[0] <= count.max(8), "{profile}: {count}");
                let exact = checker.same(&[R::at_least(count).exact()]);
                // Below the smallest group of a split by count there is nothing to nest in.
                let always = device.capabilities().merge;
                assert!(exact.is_some() || !always, "{profile}: {count}");
                if let Some(exact) = exact {
                    assert_eq!(exact[0], count.next_multiple_of(2), "{profile}: {count}");
                }
            }
        }
    });
}

#[test]
fn every_pair_on_a_grid() {
    on_each(&DEVICES, |device, profile| {
        let checker = Checker::new(device, profile);
        let total = device.properties().multiprocessor_count;
        let step = (total / 12).max(3) as usize;
        for one in (1..total).step_by(step) {
            for other in (1..=total - one).step_by(step).chain([total - one]) {
                checker.same(&[R::at_least(one), R::at_least(other)]);
                checker.same(&[R::at_least(one).cluster(8), R::target(other)]);
            }
            let sizes = checker.same(&[R::at_least(one), R::rest()]);
            if let Some(sizes) = sizes {
                assert_eq!(
                    sizes.iter().sum::<u32>(),
                    total,
                    "{profile}: {one} and the rest"
                );
            }
        }
    });
}

#[test]
fn quads_percents_and_weights() {
    let all = [&DEVICES[..], &["rtx4090", "l40s", "h100", "quad680"]].concat();
    on_each(&all, |device, profile| {
        let checker = Checker::new(device, profile);
        let total = device.properties().multiprocessor_count;
        let strands_nothing = |requests: &[R]| {
            let sizes = checker
                .same(requests)
                .unwrap_or_else(|| panic!("{profile}: {requests:?}"));
            assert_eq!(sizes.iter().sum::<u32>(), total, "{profile}: {requests:?}");
        };
        let quarter = (total / 4) & !1;
        strands_nothing(&[
            R::target(quarter),
            R::target(quarter),
            R::target(quarter),
            R::rest(),
        ]);
        strands_nothing(&[R::share(0, 1); 4]);
        for (a, b, c) in [(1, 1, 1), (1, 2, 3), (7, 1, 100), (u32::MAX, 1, u32::MAX)] {
            strands_nothing(&[R::share(8, a), R::share(0, b), R::share(0, c)]);
            strands_nothing(&[
                R::percent(20),
                R::share(1, a),
                R::at_least(8),
                R::share(0, b),
            ]);
        }
        for percent in (5..=95).step_by(5) {
            strands_nothing(&[R::percent(percent), R::rest()]);
            checker.same(&[R::percent(percent), R::percent(100 - percent)]);
            checker.same(&[R::percent(percent).exact(), R::rest().cluster(4)]);
        }
        for (a, b, c) in [
            (64, 32, 24),
            (40, 20, 12),
            (20, 20, 20),
            (33, 17, 9),
            (8, 8, 8),
        ] {
            checker.same(&[
                R::at_least(a),
                R::at_least(b),
                R::at_least(c),
                R::at_least(12),
            ]);
            checker.same(&[
                R::at_least(a).exact(),
                R::at_least(b),
                R::at_least(c),
                R::rest(),
            ]);
            checker.same(&[
                R::at_least(a).cluster(8),
                R::target(b).cluster(8),
                R::at_least(c),
                R::rest().cluster(8),
            ]);
        }
        // Sizes of no whole units break some up, which those that come after miss (12.4).
        for (a, b, c) in [(96, 20, 16), (88, 20, 24), (80, 36, 14), (72, 28, 32)] {
            checker.same(&[R::at_least(a), R::at_least(b), R::at_least(c)]);
            checker.same(&[R::at_least(a), R::at_least(b), R::rest()]);
        }
        checker.same(&vec![R::at_least(8); total as usize / 8]);
        checker.same(&vec![R::at_least(8).cluster(8); total as usize / 8]);
    });
}

/// Where the driver refuses for reasons of topology, the next plan is made, and the status says which one and
/// why; other refusals are errors, and nothing is left then.
#[test]
fn a_refusal_leads_to_the_next_plan_and_is_told() {
    let refused = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    let requests = [R::target(32), R::target(32), R::rest()];
    let config = GreenContextConfig::default();
    let partitions = [
        (1, requests[0], config),
        (2, requests[1], config),
        (3, requests[2], config),
    ];
    for (profile, call, expected, clusters) in [
        (
            "h200@13.1",
            "cuDevSmResourceSplit",
            // There, units no longer merge with what is left over: 12 SMs would be nobody's.
            SplitStrategy::EqualGroups,
            [8, 8, 8],
        ),
        (
            "h200@13.0",
            "cuDevResourceGenerateDesc",
            SplitStrategy::EqualGroups,
            [8, 8, 8],
        ),
    ] {
        let simulator = Sim::new(profile).unwrap();
        {
            let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
            let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device).unwrap();
            let injection = Injection::fail(call, refused).unwrap();
            // Every structured split; of the merges, the first.
            let every = call == "cuDevSmResourceSplit";
            simulator.inject(if every { injection } else { injection.at(1) });
            manager.create_partitions(&partitions).unwrap();
            let status = manager.allocation_status();
            assert_eq!(status.strategy, Some(expected), "{status}");
            assert!(!status.refused.is_empty(), "{status}");
            let reason = status.strategy_reason.clone().unwrap();
            assert!(
                reason.contains("915") && reason.contains(&expected.to_string()),
                "{reason}"
            );
            assert!(
                reason.contains(&status.refused[0].strategy.to_string()),
                "{reason}"
            );
            let largest = status.contexts.iter().map(|one| one.max_cluster_size);
            assert_eq!(largest.collect::<Vec<_>>(), clusters, "{status}");
            if every {
                let plan = manager.plan(&requests).unwrap();
                assert_eq!((plan.strategy, &plan.refused), (expected, &status.refused));
            }
        }
        assert!(simulator.live_objects().is_empty());
    }
}

/// 2-SM units on demand only: 42 exact of an H200 costs the clusters from 12.5 to 13.0, and nothing after.
#[test]
fn exact_sizes_say_what_they_cost() {
    on_each(&["h200"], |device, profile| {
        let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(device).unwrap();
        let exact = manager.plan(&[R::at_least(42).exact(), R::rest()]);
        if profile == "h200@12.4" {
            // A group of the device has whole units there, so the rest is rounded to those.
            let plan = exact.unwrap();
            let sizes: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
            assert_eq!((sizes, plan.left_over), (vec![42, 88], 2), "{plan}");
            return;
        }
        let plan = exact.unwrap();
        let sizes: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
        let clusters = plan.partitions[0].max_cluster;
        assert_eq!(sizes, [42, 90], "{profile}");
        let by_pairs = plan.strategy == SplitStrategy::MergedFineUnits;
        assert_eq!(
            by_pairs,
            ["h200@12.5", "h200@13.0"].contains(&profile),
            "{profile}: {plan}"
        );
        assert_eq!(clusters, if by_pairs { 2 } else { 8 }, "{profile}");
        let plain = manager.plan(&[R::at_least(42), R::rest()]).unwrap();
        assert!(
            plain.partitions.iter().all(|one| one.max_cluster == 8),
            "{profile}: {plain}"
        );
    });
}

/// All devices of the simulator.
const ALL_DEVICES: [&str; 10] = [
    "t4", "a100", "rtx4090", "l40s", "h100", "h200", "b200", "rtx5090", "gb10", "quad680",
];

/// Up to five requests of all kinds that might fit into so many SMs; equal ones among them more often than chance
/// has it.
fn any_list(total: u32, with_clusters: bool) -> impl Strategy<Value = Vec<R>> {
    let request = move |most: u32| {
        let sms = prop_oneof![
            4 => (1..=most).prop_map(SmRequest::AtLeast),
            2 => (1..=most).prop_map(SmRequest::Target),
            2 => (1..=(most * 100 / total).max(1)).prop_map(SmRequest::Percent),
            1 => (0..=most / 2, 1..=3u32)
                .prop_map(|(at_least, weight)| SmRequest::Share { at_least, weight }),
        ];
        let cluster = prop::sample::select(match with_clusters {
            true => &[1, 1, 1, 2, 4, 8][..],
            false => &[1],
        });
        (sms, cluster, prop::bool::weighted(0.1)).prop_map(|(sms, cluster, exact)| {
            let request = R::from(sms).cluster(cluster);
            if exact { request.exact() } else { request }
        })
    };
    (1..=5u32)
        .prop_flat_map(move |count| {
            let requests =
                prop::collection::vec(request(total * 5 / (count * 4)), 1..=count as usize);
            let repeated = prop::collection::vec(any::<prop::sample::Index>(), count as usize);
            (requests, repeated, prop::bool::weighted(0.4))
        })
        .prop_map(|(requests, repeated, rest)| {
            let mut list: Vec<R> = repeated.iter().map(|index| *index.get(&requests)).collect();
            let is_share = |one: &R| matches!(one.sms, SmRequest::Share { .. });
            if rest && !list.iter().any(is_share) {
                list.push(R::rest());
            }
            list
        })
}

fn run<S: Strategy>(strategy: S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config {
        cases: Config::default().cases.min(48), // on each device and version
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config).run(&strategy, check).unwrap();
}

/// Every list that any way of the driver meets is met, as well as the best of them does.
#[test]
fn no_way_of_the_driver_is_better_than_the_plan() {
    on_each(&ALL_DEVICES, |device, profile| {
        let oracle = Oracle::of(device, *device.capabilities());
        let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(device).unwrap();
        let clusters = device.properties().compute_capability.0 >= 9;
        run(any_list(oracle.facts.sm_count, clusters), |list| {
            as_good_as(&oracle, &manager, &list, profile)
        });
    });
}

/// Each pair of counts, and what it leaves, on a device of six units.
#[test]
fn each_pair_and_the_rest() {
    on_each(&["gb10"], |device, profile| {
        let oracle = Oracle::of(device, *device.capabilities());
        let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(device).unwrap();
        for one in 1..oracle.facts.sm_count {
            for other in 1..=oracle.facts.sm_count - one {
                for list in [
                    vec![R::at_least(one), R::at_least(other)],
                    vec![R::at_least(one), R::target(other)],
                    vec![R::at_least(one), R::at_least(other).exact(), R::rest()],
                ] {
                    as_good_as(&oracle, &manager, &list, profile).unwrap();
                }
            }
        }
    });
}

/// The plan is no worse than the best that brute force finds.
fn as_good_as(
    oracle: &Oracle,
    manager: &SmPartitionManager<u32>,
    list: &[R],
    profile: &str,
) -> Result<(), TestCaseError> {
    let best = oracle.best(list);
    match manager.plan(list) {
        Ok(plan) => {
            let sizes: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
            prop_assert!(oracle.meets(list, &sizes), "{profile}: {list:?}: {plan}");
            let worth = worth(&oracle.facts, list, &sizes);
            let is_best = best.is_none_or(|best| worth <= best);
            prop_assert!(
                is_best,
                "{profile}: {list:?}: {worth:?} by {plan}, not {best:?}"
            );
        }
        Err(Error::InvalidArgument { .. }) => {} // more than 100 percent
        Err(error) => prop_assert!(best.is_none(), "{profile}: {list:?}: {error}, not {best:?}"),
    }
    Ok(())
}

/// Lists that were once refused or met unequally on 12.5 to 13.0, as 12.4 and 13.1 grant them.
#[test]
fn equal_groups_of_one_split_are_found_where_units_do_not_do() {
    let lists: [(&[R], [&[u32]; 2]); 9] = [
        (&[R::percent(25); 4], [&[32; 4], &[32; 4]]),
        (&[R::percent(50); 2], [&[64; 2], &[66; 2]]),
        (&[R::at_least(28); 4], [&[32; 4], &[28; 4]]),
        (
            &[R::at_least(60), R::at_least(60), R::rest()],
            [&[64, 64, 4], &[60, 60, 12]],
        ),
        (&[R::at_least(128), R::rest()], [&[128, 4], &[128, 4]]),
        (
            &[
                R::at_least(28),
                R::at_least(28),
                R::at_least(28),
                R::at_least(28),
                R::rest(),
            ],
            [&[32, 32, 32, 32, 4], &[28, 28, 28, 28, 20]],
        ),
        (
            &[R::at_least(62), R::at_least(30), R::at_least(40)],
            [&[62, 30, 40], &[62, 30, 40]],
        ),
        (&[R::at_least(122), R::rest()], [&[124, 8], &[122, 10]]),
        (&[R::at_least(128)], [&[128], &[128]]),
    ];
    on_each(&["h100", "h200"], |device, profile| {
        let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(device).unwrap();
        let exactly = device.capabilities().structured_split;
        for (list, [in_units, exact]) in lists {
            let expected = if exactly { exact } else { in_units };
            let plan = manager.plan(list).unwrap();
            let sizes: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
            // 12.4 has no way to give 122 and leave a whole unit.
            let expected = match (profile, expected) {
                ("h100@12.4" | "h200@12.4", [124, 8]) => &[128, 4],
                (_, expected) => expected,
            };
            assert_eq!(sizes, expected, "{profile}: {list:?}: {plan}");
        }
    });
}

/// What an older driver grants, every newer one grants as well or better: sizes that were asked, equal ones equal,
/// targets as near, as little idle.
#[test]
fn no_newer_driver_does_worse() {
    for name in ALL_DEVICES {
        let versions = ["12.4", "12.5", "13.0", "13.1", "newest"];
        let managers: Vec<SmPartitionManager<u32>> = versions
            .iter()
            .map(|version| {
                let simulator = Sim::new(&format!("{name}@{version}")).unwrap();
                let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
                SmPartitionManager::with_ids(&device).unwrap()
            })
            .collect();
        let device = managers[0].device();
        let facts = DeviceFacts::new(
            device.properties().multiprocessor_count,
            device.properties().compute_capability,
            *device.capabilities(),
        );
        let clusters = facts.compute_capability.0 >= 9;
        run(any_list(facts.sm_count, clusters), |list| {
            let mut floor = None;
            for (manager, version) in managers.iter().zip(versions) {
                let plan = match manager.plan(&list) {
                    Ok(plan) => plan,
                    Err(Error::InvalidArgument { .. }) => return Ok(()), // more than 100 percent
                    Err(error) => {
                        prop_assert!(floor.is_none(), "{name}@{version}: {error}, not {floor:?}");
                        continue;
                    }
                };
                let sizes: Vec<u32> = plan.partitions.iter().map(|one| one.sm_count).collect();
                let worth = worth(&facts, &list, &sizes);
                if let Some((before, _)) = &floor {
                    prop_assert!(worth <= *before, "{name}@{version}: {plan}, not {floor:?}");
                }
                floor = Some((worth, plan.to_string()));
            }
            Ok(())
        });
    }
}

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
            let config = |sm_count| GreenContextConfig {
                sm_count,
                ..GreenContextConfig::default()
            };
            let sequences =
                prop::collection::vec((1..=total / 2, any::<bool>(), any::<u8>()), 1..12);
            run(sequences, |sequence| {
                let mut given: BTreeMap<u32, u32> = BTreeMap::new();
                for ((asked, exact, gone), id) in sequence.into_iter().zip(0..) {
                    let request = R::at_least(asked);
                    let request = if exact { request.exact() } else { request };
                    match manager.create_partition(id, request, config(1)) {
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
            let all = manager.create_context(0, config(total)).unwrap();
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
    let config = GreenContextConfig::default();
    let manager: SmPartitionManager<u32> =
        SmPartitionManager::with_ids(&device("h200@13.1")).unwrap();
    let create = |id, request| {
        let context = manager.create_partition(id, request, config)?;
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
        .shift(Some(3), cuda_green::HandOff::Strict)
        .unwrap_err();
    assert!(matches!(cut, Error::IncompatibleResources { .. }), "{cut}");
    manager.shift(Some(4), cuda_green::HandOff::Strict).unwrap();
    manager.shift(None, cuda_green::HandOff::Strict).unwrap();
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
            .create_partition(1, R::at_least(128), config)
            .unwrap();
        assert_eq!(context.sm_count(), expected, "{profile}");
        let rest = manager.create_partition(2, R::rest(), config).unwrap();
        assert_eq!(rest.sm_count(), 4, "{profile}");
    }
}

//! The planner's predictions against what a simulated driver then does: every single count, every pair on a
//! grid, quads, percents and weights, on every device and at every step of the API's history.

use std::collections::BTreeSet;

use crate::support::clusters::largest_cluster;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use cuda_green::{
    ContextPolicy, CudaDevice, CudaVersion, Driver, Error, HandOff, Kernel, Module,
    SmPartitionManager, kernels,
    planner::{PartitionRequest as R, Plan, SplitStrategy},
    sim::{Injection, Sim},
    sys::CUresult,
};

/// Each device with every version in which the ways to split differ, and the newest.
pub fn on_each(devices: &[&str], check: impl Fn(&CudaDevice, &str)) {
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
        let policy = ContextPolicy::default();
        let partitions: Vec<_> = requests
            .iter()
            .enumerate()
            .map(|(id, request)| (id, *request, policy))
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
    let policy = ContextPolicy::default();
    let partitions = [
        (1, requests[0], policy),
        (2, requests[1], policy),
        (3, requests[2], policy),
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
        simulator.assert_injections_fired();
        assert!(simulator.live_objects().is_empty());
    }
}

/// More partitions than there are whole units: by one structured split all the same, the smallest of them in pairs.
#[test]
fn small_partitions_do_without_a_unit_where_those_run_out() {
    let device = Driver::simulated(&Sim::new("h200@13.1").unwrap())
        .unwrap()
        .device(0)
        .unwrap();
    let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device).unwrap();
    let mut list = vec![R::at_least(8); 16];
    list.push(R::at_least(4));
    let plan = manager.plan(&list).unwrap();
    let clusters = plan.partitions.iter().filter(|one| one.max_cluster == 8);
    assert_eq!(
        (plan.strategy, clusters.count()),
        (SplitStrategy::Structured, 15),
        "{plan}"
    );
}

/// Sizes that units do not come to are not rebalanced, and it is said why the split is that one.
#[test]
fn splits_within_splits_say_why_where_units_could_merge() {
    let device = Driver::simulated(&Sim::new("h200@13.0").unwrap())
        .unwrap()
        .device(0)
        .unwrap();
    let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device).unwrap();
    let policy = ContextPolicy::default();
    let list = [62, 30, 40].map(|sms| (sms, R::at_least(sms), policy));
    manager.create_partitions(&list).unwrap();
    let status = manager.allocation_status();
    let reason = status.strategy_reason.unwrap();
    assert!(
        reason.ends_with("(CUDA 13.0: units that merge do not add up to these sizes)"),
        "{reason}"
    );
    let refused = manager
        .rebalance_for(Some(&62), HandOff::Strict)
        .unwrap_err();
    assert!(
        matches!(refused, Error::Unsupported { needs, .. } if needs == CudaVersion::new(13, 1)),
        "{refused}"
    );
    manager.rebalance_for(None, HandOff::Strict).unwrap();
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

pub fn run<S: Strategy>(strategy: S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config {
        cases: Config::default().cases.min(48), // on each device and version
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config).run(&strategy, check).unwrap();
}

//! Plans against what is made of them: a few hundred lists of requests, and sequences of calls, in the way of
//! this driver and in that of 12.4, which has neither merging nor the structured split.

use std::collections::{BTreeMap, BTreeSet};

use cuda_green::{
    ContextPolicy, CudaVersion, Driver, Error, Result, SmPartitionManager, kernels,
    planner::{PartitionRequest, SmRequest},
};

use crate::{
    Case,
    support::{
        assert_disjoint, config, is_partitioned, kernel, largest_cluster,
        oracle::{self, Oracle},
        quad, sm_ids, times,
    },
};

pub const CASES: &[Case] = &[
    ("plans/what_is_planned_is_made", planned_is_made),
    ("plans/no_way_of_the_driver_is_better", no_way_is_better),
    ("plans/equal_groups_where_units_do_not_do", equal_groups),
    ("plans/one_by_one_in_a_tree_of_pieces", one_by_one),
    ("plans/clusters_are_kept_one_by_one_too", clusters),
    ("plans/one_context_has_no_plan", no_plan),
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % n
    }

    /// Up to six requests of all kinds that might fit into so many SMs. Clusters are demanded where there are
    /// any, and now and then where there are none.
    fn requests(&mut self, total: u32, has_clusters: bool) -> Vec<PartitionRequest> {
        let clusters: &[u32] = match has_clusters || self.below(16) == 0 {
            true => &[1, 1, 1, 2, 4, 8],
            false => &[1],
        };
        let count = 1 + self.below(6);
        let fair = total * 2 / (count + 1);
        let mut requests: Vec<PartitionRequest> = (0..count)
            .map(|_| {
                let size = 1 + self.below(fair);
                let sms = match self.below(8) {
                    0..4 => SmRequest::AtLeast(size),
                    4 | 5 => SmRequest::Target(size),
                    6 => SmRequest::Percent(1 + self.below(100 / count)),
                    _ => SmRequest::Share {
                        at_least: size / 2,
                        weight: 1 + self.below(4),
                    },
                };
                let cluster = clusters[self.below(clusters.len() as u32) as usize];
                let request = PartitionRequest::from(sms).cluster(cluster);
                if self.below(8) == 0 {
                    request.exact()
                } else {
                    request
                }
            })
            .collect();
        let shares = |request: &PartitionRequest| matches!(request.sms, SmRequest::Share { .. });
        if self.below(3) == 0 && !requests.iter().any(shares) {
            requests.push(PartitionRequest::rest());
        }
        requests
    }
}

/// What this driver has, and what 12.4 has.
fn versions(driver: &Driver) -> Vec<CudaVersion> {
    let oldest = CudaVersion::new(12, 4);
    let versions: BTreeSet<CudaVersion> = [driver.version(), oldest].into();
    versions
        .into_iter()
        .filter(|_| is_partitioned(driver))
        .collect()
}

/// Sizes, clusters, strategy, refusals and errors: all as the plan said. Every tenth list is run, too.
fn planned_is_made(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let kernel = kernel(&device, kernels::BURN)?;
    let has_clusters = device.properties().compute_capability.0 >= 9;
    for version in versions(driver) {
        let manager: SmPartitionManager<usize> = SmPartitionManager::as_of(&device, version)?;
        let total = manager.allocation_status().total_sms;
        let mut random = Random(12345);
        let mut made = 0;
        let lists = times(driver, 60, 300);
        for list in 0..lists {
            let requests = random.requests(total, has_clusters);
            let partitions: Vec<_> = requests
                .iter()
                .enumerate()
                .map(|(id, request)| (id, *request, ContextPolicy::default()))
                .collect();
            let plan = manager.plan(&requests);
            let status = match (manager.create_partitions(&partitions), &plan) {
                (Ok(()), Ok(_)) => manager.allocation_status(),
                (Err(error), Err(predicted)) => {
                    assert_eq!(error.to_string(), predicted.to_string(), "{requests:?}");
                    continue;
                }
                (made, _) => panic!("{requests:?}: {made:?}, where {plan:?} was predicted"),
            };
            made += 1;
            let plan = plan?;
            assert_eq!(status.strategy, Some(plan.strategy), "{requests:?}: {plan}");
            assert_eq!(status.refused, plan.refused, "{requests:?}");
            assert_eq!(status.scaffold_contexts, plan.nested.len());
            assert_eq!(
                (status.available_sms, status.stranded_sms),
                (plan.left_over, plan.stranded),
                "{requests:?}: {plan}"
            );
            for (context, planned) in status.contexts.iter().zip(&plan.partitions) {
                assert_eq!(
                    (
                        context.requested_sms,
                        context.sm_count,
                        context.coscheduled_sms,
                        context.max_cluster_size
                    ),
                    (
                        planned.requested,
                        planned.sm_count,
                        planned.coscheduled,
                        planned.max_cluster
                    ),
                    "{requests:?}: {plan}"
                );
            }
            for id in (0..requests.len()).filter(|_| has_clusters) {
                let context = manager.get_context(id)?;
                let largest = largest_cluster(&kernel, &context)?;
                assert!(
                    largest >= context.max_cluster_size(),
                    "{requests:?}: {plan}"
                );
            }
            if list % 10 == 0 {
                let mut sets = Vec::new();
                for id in 0..requests.len() {
                    let context = manager.get_context(id)?;
                    sets.push(sm_ids(&context)?);
                }
                assert_disjoint(&sets);
            }
            for id in 0..requests.len() {
                manager.destroy_context(id)?;
            }
        }
        assert!(made * 3 > lists, "{made} of {lists} lists fit");
    }
    Ok(())
}

/// A thousand lists on a GPU: by what the driver's own dry runs answer, no way of it is better than the plan.
fn no_way_is_better(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let has_clusters = device.properties().compute_capability.0 >= 9;
    for version in versions(driver) {
        let manager: SmPartitionManager<usize> = SmPartitionManager::as_of(&device, version)?;
        let capabilities = device.capabilities().with_driver(version);
        let oracle = Oracle::of(&device, capabilities);
        let mut random = Random(67890);
        for _ in 0..times(driver, 100, 1_000) {
            let requests = random.requests(oracle.facts.sm_count, has_clusters);
            let plan = manager.plan(&requests);
            // Brute force takes too long with more.
            let best = Some(&requests).filter(|list| list.len() <= 4);
            let best = best.and_then(|requests| oracle.best(requests));
            match plan {
                Ok(plan) => {
                    let sizes = plan.partitions.iter().map(|one| one.sm_count);
                    let sizes: Vec<u32> = sizes.collect();
                    assert!(oracle.meets(&requests, &sizes), "{requests:?}: {plan}");
                    let worth = oracle::worth(&oracle.facts, &requests, &sizes);
                    assert!(
                        best.is_none_or(|best| worth <= best),
                        "{requests:?}: {worth:?} by {plan}, not {best:?}"
                    );
                }
                Err(error) => assert_eq!(best, None, "{requests:?}: {error}"),
            }
        }
    }
    Ok(())
}

/// Lists that whole units do not come to on a chip with 15 of 8 and 12 SMs beside: met by larger groups of one split,
/// or by splits within splits, and run.
fn equal_groups(driver: &Driver) -> Result<()> {
    use PartitionRequest as R;
    let device = driver.device(0)?;
    if device.properties().multiprocessor_count != 132 {
        return Ok(());
    }
    let lists: [(&[R], [&[u32]; 2]); 6] = [
        (&[R::percent(25); 4], [&[32; 4], &[32; 4]]),
        (&[R::percent(50); 2], [&[64; 2], &[66; 2]]),
        (
            &[R::at_least(60), R::at_least(60), R::rest()],
            [&[64, 64, 4], &[60, 60, 12]],
        ),
        (&[R::at_least(128), R::rest()], [&[128, 4], &[128, 4]]),
        (
            &[R::at_least(62), R::at_least(30), R::at_least(40)],
            [&[62, 30, 40], &[62, 30, 40]],
        ),
        (&[R::at_least(128)], [&[128], &[128]]),
    ];
    for version in versions(driver) {
        let manager: SmPartitionManager<usize> = SmPartitionManager::as_of(&device, version)?;
        for (list, [in_units, exactly]) in lists {
            let partitions = list.iter().enumerate();
            let partitions: Vec<_> = partitions
                .map(|(id, request)| (id, *request, ContextPolicy::default()))
                .collect();
            manager.create_partitions(&partitions)?;
            let mut sets = Vec::new();
            for id in 0..list.len() {
                sets.push(sm_ids(&manager.get_context(id)?)?);
            }
            assert_disjoint(&sets);
            let sizes: Vec<u32> = sets.iter().map(|set| set.len() as u32).collect();
            let is_structured = version >= CudaVersion::new(13, 1);
            let expected = if is_structured { exactly } else { in_units };
            assert_eq!(sizes, expected, "{list:?} as of CUDA {version}");
            for id in 0..list.len() {
                manager.destroy_context(id)?;
            }
        }
        // One by one, too.
        let first = manager.create_context(0, config(128))?;
        let rest = manager.create_partition(1, R::rest(), ContextPolicy::default())?;
        let sets = [sm_ids(&first)?, sm_ids(&rest)?];
        assert_disjoint(&sets);
        assert_eq!(sets.map(|set| set.len()), [128, 4], "as of CUDA {version}");
    }
    Ok(())
}

/// Contexts come and go one by one: no SM in two of them, none lost, and the whole device again at the end.
fn one_by_one(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    for version in versions(driver) {
        let manager: SmPartitionManager<u32> = SmPartitionManager::as_of(&device, version)?;
        let total = manager.allocation_status().total_sms;
        let mut random = Random(54321);
        let mut sets: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for id in 0..times(driver, 60, 150) as u32 {
            let asked = 1 + random.below(total / 2);
            match manager.create_context(id, config(asked)) {
                Ok(context) => {
                    assert!(context.sm_count() >= asked);
                    if version >= CudaVersion::new(13, 1) {
                        assert_eq!(context.sm_count(), asked.next_multiple_of(2));
                    }
                    sets.insert(id, sm_ids(&context)?);
                }
                Err(Error::InsufficientSms { available, .. }) => assert!(available < asked),
                Err(error) => panic!("{error}"),
            }
            assert_disjoint(&sets.values().cloned().collect::<Vec<_>>());
            let status = manager.allocation_status();
            let given: usize = sets.values().map(BTreeSet::len).sum();
            assert_eq!(status.allocated_sms as usize, given);
            assert_eq!(
                (
                    status.available_sms + status.allocated_sms,
                    status.stranded_sms
                ),
                (total, 0)
            );
            if random.below(2) == 0 && !sets.is_empty() {
                let gone = sets
                    .keys()
                    .nth(random.below(sets.len() as u32) as usize)
                    .copied();
                sets.retain(|id, _| Some(*id) != gone);
                gone.map_or(Ok(()), |id| manager.destroy_context(id))?;
            }
        }
        for id in sets.into_keys() {
            manager.destroy_context(id)?;
        }
        assert_eq!(manager.allocation_status().scaffold_contexts, 0);
        let all = manager.create_context(0, config(total))?;
        assert_eq!(sm_ids(&all)?.len(), total as usize);
    }
    Ok(())
}

/// An H200's 15 whole units go to three contexts: the 12 SMs that are left run clusters of 2, and are not given
/// to one that demands more.
fn clusters(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    if device.properties().multiprocessor_count != 132 {
        return Ok(());
    }
    for version in versions(driver) {
        let manager: SmPartitionManager<u32> = SmPartitionManager::as_of(&device, version)?;
        if version >= CudaVersion::new(13, 1) {
            continue; // the last unit has them there
        }
        for sms in [64, 32, 24] {
            let request = PartitionRequest::at_least(sms).cluster(8);
            let context = manager.create_partition(sms, request, ContextPolicy::default())?;
            assert_eq!((context.sm_count(), context.max_cluster_size()), (sms, 8));
        }
        // A small one has as many SMs as its cluster.
        manager.destroy_context(24)?;
        for request in [PartitionRequest::at_least(3), PartitionRequest::target(3)] {
            let small =
                manager.create_partition(3, request.cluster(8), ContextPolicy::default())?;
            assert_eq!((small.sm_count(), small.max_cluster_size()), (8, 8));
            drop(small);
            manager.destroy_context(3)?;
        }
        drop(manager.create_partition(
            24,
            PartitionRequest::at_least(24),
            ContextPolicy::default(),
        )?);
        let before = manager.allocation_status();
        for request in [PartitionRequest::at_least(8), PartitionRequest::rest()] {
            let refused = manager.create_partition(1, request.cluster(4), ContextPolicy::default());
            assert!(
                matches!(
                    refused,
                    Err(Error::ClusterUnavailable {
                        asked: 4,
                        best: 2,
                        ..
                    })
                ),
                "{refused:?}"
            );
        }
        assert_eq!(manager.allocation_status(), before);
        let rest = manager.create_partition(
            1,
            PartitionRequest::rest().cluster(2),
            ContextPolicy::default(),
        )?;
        assert_eq!((rest.sm_count(), rest.max_cluster_size()), (12, 2));
        assert_eq!(manager.allocation_status().available_sms, 0);
    }
    Ok(())
}

/// Single-context mode says so, and holds requests to the same rules.
fn no_plan(driver: &Driver) -> Result<()> {
    if is_partitioned(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    let rest = PartitionRequest::rest();
    let refused = manager.plan(&[rest]);
    assert!(
        matches!(refused, Err(Error::NotPartitioned { .. })),
        "{refused:?}"
    );
    let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device)?;
    let refused = manager.create_partitions(&[
        (1, rest, ContextPolicy::default()),
        (2, rest, ContextPolicy::default()),
    ]);
    assert!(
        matches!(refused, Err(Error::InvalidArgument { .. })),
        "{refused:?}"
    );
    let refused = manager.create_partitions(&[(1, rest.cluster(8), ContextPolicy::default())]);
    assert!(
        matches!(refused, Err(Error::ClusterUnavailable { best: 1, .. })),
        "{refused:?}"
    );
    manager.create_partitions(&[
        (1, PartitionRequest::percent(25), ContextPolicy::default()),
        (2, rest, ContextPolicy::default()),
    ])?;
    let status = manager.allocation_status();
    let requested: Vec<u32> = status
        .contexts
        .iter()
        .map(|context| context.requested_sms)
        .collect();
    assert_eq!(
        requested,
        [
            status.total_sms / 4,
            status.total_sms - status.total_sms / 4
        ]
    );
    Ok(())
}

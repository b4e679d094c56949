//! Plans against brute force over what each driver offers, and against what older drivers grant.

use cuda_green::{
    Driver, Error, SmPartitionManager,
    planner::{DeviceFacts, PartitionRequest as R, SmRequest},
    sim::{Sim, profiles},
};
use proptest::prelude::*;

use super::predictions::{on_each, run};
use crate::support::oracle::{Oracle, worth};

/// All devices of the simulator.
fn all_devices() -> Vec<&'static str> {
    profiles().iter().map(|profile| profile.name).collect()
}

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

/// Targets of up to three sizes, and counts that fill the device up to a few SMs: their rounding takes what the targets
/// then lack.
fn tight_targets(total: u32) -> impl Strategy<Value = Vec<R>> {
    let whole = prop::sample::select(vec![2u32, 8]);
    let target = (1..=total / 16, 1..=2usize, whole);
    let targets = prop::collection::vec(target, 1..=3);
    let counts = prop::collection::vec(1..=5u32, 1..=3);
    (targets, counts, 0..=2u32, prop::bool::weighted(0.3)).prop_filter_map(
        "room for counts",
        move |(targets, counts, unused, rest)| {
            let of_kind = |&(size, n, whole): &(u32, usize, u32)| vec![size * whole; n];
            let targets: Vec<u32> = targets.iter().flat_map(of_kind).collect();
            let taken = targets.iter().sum::<u32>() + unused + u32::from(rest);
            let room = total.checked_sub(taken)?;
            let all: u32 = counts.iter().sum();
            let counts: Vec<u32> = counts.iter().map(|part| room * part / all).collect();
            let possible = targets.len() + counts.len() <= 5 && !counts.contains(&0);
            let mut list: Vec<R> = targets.into_iter().map(R::target).collect();
            list.extend(counts.into_iter().map(R::at_least));
            list.extend(rest.then(R::rest));
            possible.then_some(list)
        },
    )
}

/// Where not all targets fit, those are lowered that lose least.
#[test]
fn targets_lose_least() {
    on_each(&all_devices(), |device, profile| {
        let oracle = Oracle::of(device, *device.capabilities());
        let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(device).unwrap();
        run(tight_targets(oracle.facts.sm_count), |list| {
            as_good_as(&oracle, &manager, &list, profile)
        });
    });
}

/// Every list that any way of the driver meets is met, as well as the best of them does.
#[test]
fn no_way_of_the_driver_is_better_than_the_plan() {
    on_each(&all_devices(), |device, profile| {
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

/// Lists that random runs found to be planned worse than another way of the driver does, on every device and version.
#[test]
fn lists_that_were_planned_worse_are_planned_as_well() {
    let exact = |request: R| request.exact();
    let lists: [&[R]; 11] = [
        &[R::at_least(9), R::at_least(9), R::at_least(9), R::rest()],
        &[R::share(0, 1), R::at_least(17), R::at_least(17)],
        &[R::at_least(35), R::percent(37), R::percent(37), R::rest()],
        &[
            exact(R::percent(29)),
            exact(R::percent(29)),
            R::percent(29),
            R::rest(),
        ],
        &[
            R::at_least(33),
            R::at_least(33),
            exact(R::at_least(1)),
            R::at_least(33),
            R::rest(),
        ],
        &[
            R::target(22),
            R::target(22),
            R::target(14),
            R::at_least(25),
            R::at_least(25),
        ],
        &[R::target(22), R::target(32), R::at_least(82)],
        &[R::target(107), R::at_least(1)],
        &[R::target(2), R::at_least(106)],
        &[
            R::target(4),
            R::at_least(31),
            R::at_least(15),
            R::at_least(77),
        ],
        &[
            R::target(4),
            R::target(4),
            R::target(4),
            R::at_least(60),
            R::at_least(60),
        ],
    ];
    on_each(&all_devices(), |device, profile| {
        let oracle = Oracle::of(device, *device.capabilities());
        let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(device).unwrap();
        for list in lists {
            as_good_as(&oracle, &manager, list, profile).unwrap();
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

/// Lists that whole units do not come to on a chip with 15 of 8 SMs and 12 beside: larger groups do, or splits within
/// splits.
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
    for name in all_devices() {
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

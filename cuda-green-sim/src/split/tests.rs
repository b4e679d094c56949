//! Splits against what was measured, and against what no split may do.

use proptest::prelude::*;

use super::*;
use crate::{
    clusters::{clusters, largest_cluster},
    profiles,
};

fn granularity(unit: u32, smallest: u32) -> Granularity {
    Granularity {
        unit,
        smallest,
        piece: unit,
        part: false,
        joined: false,
    }
}

fn h200() -> SmSet {
    profiles()
        .iter()
        .find(|device| device.name == "h200")
        .unwrap()
        .sms()
}

/// Group size, number of groups and remainder as measured on an H200, driver 580.
#[test]
fn split_by_count_gives_what_was_measured() {
    for (min_count, unit, smallest, groups, size, remainder) in [
        (0, 8, 8, 15, 8, 12),
        (8, 8, 8, 15, 8, 12),
        (32, 8, 8, 4, 32, 4),
        (33, 8, 8, 3, 40, 12),
        (129, 8, 8, 1, 132, 0),
        (132, 8, 8, 1, 132, 0),
        (0, 2, 2, 66, 2, 0),
        (2, 2, 2, 66, 2, 0),
    ] {
        let plan = EqualSplit::plan(&h200(), min_count, granularity(unit, smallest)).unwrap();
        assert_eq!((plan.groups, plan.size), (groups, size), "{min_count}");
        let parts = plan.make(&h200(), u32::MAX);
        assert_eq!(parts.groups.len() as u32, groups);
        assert!(parts.groups.iter().all(|group| group.count() == size));
        assert_eq!(parts.remainder.count(), remainder);
    }
    // Three groups asked for, of at least so many.
    for (min_count, groups, size, remainder) in [
        (8, 3, 8, 108),
        (12, 3, 16, 84),
        (20, 3, 24, 60),
        (32, 3, 32, 36),
        (40, 3, 40, 12),
        (44, 2, 48, 36),
    ] {
        let plan = EqualSplit::plan(&h200(), min_count, granularity(8, 8)).unwrap();
        let parts = plan.make(&h200(), 3);
        assert_eq!((parts.groups.len(), plan.size), (groups, size));
        assert_eq!(parts.remainder.count(), remainder, "{min_count}");
    }
    assert_eq!(
        EqualSplit::plan(&h200(), 133, granularity(8, 8)),
        Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION)
    );
}

/// Clusters of 2, 4 and 8 that fit at 8 blocks an SM, as measured on an H200, driver 580.
#[test]
fn clusters_fit_as_measured() {
    let fits = |set: &SmSet| [2, 4, 8].map(|cluster| clusters(set.chunks(), cluster, 8));
    assert_eq!(fits(&h200()), [528, 248, 124]);
    let by_32 = EqualSplit::plan(&h200(), 32, granularity(8, 8))
        .unwrap()
        .make(&h200(), 4);
    assert_eq!(fits(&by_32.groups[0]), [128, 56, 24]);
    let by_8 = EqualSplit::plan(&h200(), 8, granularity(8, 8))
        .unwrap()
        .make(&h200(), 15);
    let mut merged = SmSet::default();
    by_8.groups[..4]
        .iter()
        .for_each(|group| merged.merge(group));
    assert_eq!(fits(&merged), [128, 64, 32]);
    merged.merge(&by_8.remainder);
    assert_eq!(fits(&merged), [176, 64, 32]);
    assert_eq!(largest_cluster(merged.chunks()), 8);
    assert_eq!(fits(&by_8.groups[0]), [32, 16, 8]);
    assert_eq!(fits(&by_8.remainder), [48, 0, 0]);
    let mut unit_and_rest = by_8.groups[1].clone();
    unit_and_rest.merge(&by_8.remainder);
    assert_eq!(fits(&unit_and_rest), [80, 16, 8]);
    let three = EqualSplit::plan(&h200(), 32, granularity(8, 8))
        .unwrap()
        .make(&h200(), 3);
    assert_eq!(fits(&three.groups[0]), [128, 64, 32]);
    assert_eq!(fits(&three.remainder), [144, 56, 28]);
    let nested = EqualSplit::plan(&three.remainder, 16, granularity(8, 8))
        .unwrap()
        .make(&three.remainder, 1);
    assert_eq!(fits(&nested.groups[0]), [64, 32, 16]);
    assert_eq!(fits(&nested.remainder), [80, 20, 10]);
    let by_2 = EqualSplit::plan(&h200(), 2, granularity(2, 2))
        .unwrap()
        .make(&h200(), 66);
    let mut pairs = SmSet::default();
    by_2.groups[..21]
        .iter()
        .for_each(|group| pairs.merge(group));
    assert_eq!(fits(&pairs), [168, 0, 0]);
    assert_eq!(largest_cluster(pairs.chunks()), 2);
}

/// All parts together are the set that was split, and no SM is in two of them.
fn assert_partition(whole: &SmSet, parts: &Parts) {
    let mut ids: Vec<u32> = parts.remainder.ids();
    ids.extend(parts.groups.iter().flat_map(SmSet::ids));
    ids.sort_unstable();
    assert_eq!(ids, whole.ids());
}

proptest! {
    #[test]
    fn equal_groups_are_disjoint_alike_and_complete(
        device in 0..profiles().len(), min_count in 0_u32..700, wanted in 0_u32..100, fine: bool,
    ) {
        let device = &profiles()[device];
        let sms = device.sms();
        let (unit, smallest) = if fine {
            (2, 2)
        } else {
            (device.sm_coscheduled_alignment, device.min_sm_partition_size)
        };
        let plan = EqualSplit::plan(&sms, min_count, granularity(unit, smallest));
        prop_assert_eq!(plan.is_ok(), min_count <= device.sm_count);
        if let Ok(plan) = plan {
            let parts = plan.make(&sms, wanted);
            assert_partition(&sms, &parts);
            prop_assert_eq!(parts.groups.len() as u32, plan.groups.min(wanted));
            for group in &parts.groups {
                prop_assert_eq!(group.count(), plan.size);
                prop_assert!(group.count() >= min_count);
                prop_assert!(group.count() % unit == 0 || group.count() == device.sm_count);
                prop_assert!(group.units(unit) >= 1);
            }
        }
    }

    #[test]
    fn structured_groups_are_disjoint_exact_and_complete(
        device in 0..profiles().len(),
        requests in prop::collection::vec(
            (0_u32..60, 1_u32..17, any::<bool>(), any::<bool>()),
            1..6,
        ),
    ) {
        let sms = profiles()[device].sms();
        let requests: Vec<GroupRequest> = requests
            .into_iter()
            .map(|(pairs, unit, backfill, prefer)| GroupRequest {
                sm_count: pairs * 2,
                coscheduled: unit * 2,
                preferred: if prefer { unit * 4 } else { unit * 2 },
                backfill,
            })
            .collect();
        if let Ok(parts) = structured(&sms, &requests) {
            assert_partition(&sms, &parts);
            for (request, group) in requests.iter().zip(&parts.groups) {
                if request.sm_count > 0 {
                    prop_assert_eq!(group.count(), request.sm_count);
                }
                if !group.is_empty() {
                    prop_assert!(group.units(request.coscheduled) >= 1);
                }
                if !request.backfill {
                    prop_assert!(group.chunks().iter().all(|chunk| chunk.len % request.coscheduled == 0));
                }
            }
        }
    }
}

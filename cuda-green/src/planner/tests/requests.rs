//! Each kind of request: rounding, contradictions, clusters and exact sizes, written out by hand.

use super::*;

/// Units that ignore co-scheduling are for those who ask for them.
#[test]
fn a_small_device_needs_an_explicit_word_for_finer_units() {
    let before = facts(20, (12, 0), (13, 0));
    let halves = [PartitionRequest::at_least(10); 2];
    let error = plans(&before, &halves, &by_numbers(before)).unwrap_err();
    let Error::UnitsTooCoarse { unit: 8, help, .. } = error else {
        panic!("{error}");
    };
    assert!(help.contains("exact"), "{help}");
    let exact = halves.map(PartitionRequest::exact);
    let plan = first(&before, &exact, &by_numbers(before));
    assert_eq!(
        (sizes(&plan), plan.strategy),
        (vec![10, 10], SplitStrategy::MergedFineUnits)
    );
    assert!(plan.partitions.iter().all(|one| one.max_cluster == 2));
    // Where one of them has whole units, what is left comes in pairs.
    let plan = quad(before, &by_numbers(before));
    assert_eq!(
        (sizes(&plan), plan.strategy),
        (vec![4, 4, 4, 8], SplitStrategy::Nested)
    );
    let after = facts(20, (12, 0), (13, 1));
    let plan = quad(after, &by_numbers(after));
    let clusters: Vec<u32> = plan.partitions.iter().map(|one| one.max_cluster).collect();
    assert_eq!(
        (sizes(&plan), clusters),
        (vec![4, 4, 4, 8], vec![4, 4, 4, 8])
    );
}

/// Rounding by hand, for each kind of request and each way of splitting.
#[test]
fn requests_round_as_documented() {
    use PartitionRequest as R;
    let requests: [(&[R], [&[u32]; 3]); 8] = [
        // Counts round up, targets down, percents to whole SMs and then down.
        (
            &[R::at_least(33), R::target(39), R::rest()],
            [&[40, 32, 60], &[40, 32, 60], &[34, 38, 60]],
        ),
        (
            &[R::percent(25), R::percent(50)],
            [&[32, 64], &[32, 64], &[32, 66]],
        ),
        (
            &[R::percent(1), R::rest()],
            [&[8, 124], &[8, 124], &[2, 130]],
        ),
        // Shares take all that is left: a third and two thirds of 132 - 64.
        (
            &[R::at_least(64), R::share(0, 1), R::share(0, 2)],
            [&[64, 24, 44], &[64, 24, 44], &[64, 22, 46]],
        ),
        // Minimums first: 132 - 40 - 8 = 84 are shared 1 to 3.
        (
            &[R::share(40, 1), R::share(8, 3)],
            [&[56, 76], &[56, 76], &[60, 72]],
        ),
        (
            &[R::share(100, 1), R::share(10, 1_000_000)],
            [&[104, 28], &[104, 28], &[100, 32]],
        ),
        // A share that rounds away keeps its minimum; one with none has a unit.
        (
            &[R::share(0, 1), R::share(0, u32::MAX)],
            [&[8, 124], &[8, 124], &[2, 130]],
        ),
        (&[R::rest()], [&[132], &[132], &[132]]),
    ];
    for (requests, expected) in requests {
        for (driver, expected) in [(12, 4), (13, 0), (13, 1)].into_iter().zip(expected) {
            let facts = facts(132, (9, 0), driver);
            let plan = first(&facts, requests, &h200);
            assert_eq!(sizes(&plan), expected, "{requests:?} on {driver:?}: {plan}");
            if requests.len() > 2 {
                assert_eq!((plan.left_over, plan.stranded), (0, 0));
            }
        }
    }
}

#[test]
fn requests_that_contradict_are_refused() {
    use PartitionRequest as R;
    let facts = facts(132, (9, 0), (13, 0));
    let cases: [(&str, &[R]); 8] = [
        ("request", &[R::percent(0)]),
        ("request", &[R::percent(101)]),
        ("requests", &[R::percent(60), R::percent(41)]),
        ("request", &[R::share(8, 0)]),
        ("requests", &[R::rest(), R::rest()]),
        ("requests", &[R::rest(), R::share(8, 1)]),
        ("cluster", &[R::rest().cluster(3)]),
        ("cluster", &[R::rest().cluster(0)]),
    ];
    for (name, requests) in cases {
        let error = plans(&facts, requests, &h200).unwrap_err();
        assert!(
            matches!(error, Error::InvalidArgument { name: said, .. } if said == name),
            "{requests:?}: {error}"
        );
    }
    for requests in [
        &[R::share(100, 1), R::share(33, 1)][..],
        &[R::percent(100), R::at_least(1)],
        &[R::at_least(132), R::rest()],
        &[R::share(u32::MAX, 1), R::share(u32::MAX, 1)],
    ] {
        let error = plans(&facts, requests, &h200).unwrap_err();
        assert!(
            matches!(error, Error::InsufficientSms { total: 132, .. }),
            "{requests:?}: {error}"
        );
    }
}

/// 15 whole units and 12 SMs in pairs: who demands clusters does not get those alone.
#[test]
fn clusters_that_are_demanded_are_kept_or_refused_with_the_reason() {
    use PartitionRequest as R;
    let list = |last: R| [R::at_least(64), R::at_least(32), R::at_least(24), last];
    for driver in [(12, 4), (12, 5), (13, 0)] {
        let facts = facts(132, (9, 0), driver);
        let plan = first(&facts, &list(R::at_least(12)), &h200);
        assert_eq!(sizes(&plan), [64, 32, 24, 12]);
        assert_eq!(plan.partitions[3].max_cluster, 2, "{driver:?}");
        // A whole unit for it, which the 24 beside it can do without, takes splits within splits.
        let plan = first(&facts, &list(R::at_least(12).cluster(4)), &h200);
        assert_eq!(
            (sizes(&plan), plan.strategy),
            (vec![64, 32, 24, 12], SplitStrategy::Nested)
        );
        assert!(
            plan.partitions.iter().all(|one| one.max_cluster == 8),
            "{plan:?}"
        );
        let error = plans(&facts, &[R::at_least(8).cluster(8); 16], &h200).unwrap_err();
        let Error::ClusterUnavailable {
            request: 15,
            asked: 8,
            best: 2,
            why,
            ..
        } = error
        else {
            panic!("{driver:?}: {error}");
        };
        assert!(why.contains("pairs"), "{why}");
        let smaller = [
            R::at_least(56),
            R::at_least(32),
            R::at_least(24),
            R::rest().cluster(8),
        ];
        let plan = first(&facts, &smaller, &h200);
        assert_eq!(sizes(&plan), [56, 32, 24, 20], "{driver:?}");
        assert_eq!(plan.partitions[3].max_cluster, 8);
    }
    // Exact sizes and clusters: from 13.1 on, or where one of them has whole units.
    let both = [R::at_least(42).exact().cluster(8), R::rest()];
    let plan = first(&facts(132, (9, 0), (13, 0)), &both, &h200);
    assert_eq!((sizes(&plan), plan.left_over), (vec![42, 88], 2));
    let three = [R::at_least(44).exact().cluster(8); 3];
    let error = plans(&facts(132, (9, 0), (13, 0)), &three, &h200).unwrap_err();
    let Error::ClusterUnavailable {
        request: 0,
        best: 2,
        why,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(why.contains("13.1"), "{why}");
    let plan = first(&facts(132, (9, 0), (13, 1)), &both, &h200);
    assert_eq!(
        (sizes(&plan), plan.partitions[0].max_cluster),
        (vec![42, 90], 8)
    );
    // Before 9.0 there are none to demand.
    let old = facts(108, (8, 0), (13, 1));
    let error = plans(&old, &[R::rest().cluster(2)], &by_numbers(old)).unwrap_err();
    assert!(
        matches!(&error, Error::ClusterUnavailable { best: 1, why, .. } if why.contains("9.0")),
        "{error}"
    );
}

/// Sizes that only another order of splits allows, and as few scaffolds as can be (12.4).
#[test]
fn nesting_finds_the_order_that_fits() {
    let facts = facts(132, (9, 0), (12, 4));
    for (asked, expected, scaffolds) in [
        (&[100, 32][..], &[100, 32][..], 0),
        (&[32, 32, 32, 36], &[32, 32, 32, 36], 0),
        (&[64, 32, 24, 12], &[64, 32, 24, 12], 2),
        (&[40, 32, 32, 28], &[40, 32, 32, 28], 1),
        (&[20, 20, 20, 20, 20, 32], &[20, 20, 20, 20, 20, 32], 4),
        (&[8; 15], &[8; 15], 0),
        (&[132], &[132], 0),
    ] {
        let requests: Vec<_> = asked
            .iter()
            .map(|sms| PartitionRequest::at_least(*sms))
            .collect();
        let plan = first(&facts, &requests, &h200);
        assert_eq!(
            (&*sizes(&plan), plan.nested.len()),
            (expected, scaffolds),
            "{plan}"
        );
        let strategy = if scaffolds == 0 {
            SplitStrategy::EqualGroups
        } else {
            SplitStrategy::Nested
        };
        assert_eq!(plan.strategy, strategy);
    }
    // Exact sizes that are not whole units, beside a group that stays free, and with the rest in whole units.
    let exact = PartitionRequest::at_least(30).exact();
    let plan = first(&facts, &[exact; 2], &h200);
    assert_eq!((sizes(&plan), plan.left_over), (vec![30, 30], 72), "{plan}");
    let plan = first(&facts, &[exact, PartitionRequest::rest()], &h200);
    assert_eq!((sizes(&plan), plan.left_over), (vec![30, 96], 6), "{plan}");
    // A target below the smallest group has that, so that nothing is idle.
    let small = PartitionRequest::target(2);
    let list = [
        small,
        small.exact(),
        small.exact(),
        PartitionRequest::rest(),
    ];
    let plan = first(&facts, &list, &h200);
    assert_eq!(sizes(&plan), [8, 2, 2, 120], "{plan}");
    let two = [PartitionRequest::at_least(66); 2];
    assert!(matches!(
        plans(&facts, &two, &h200),
        Err(Error::UnitsTooCoarse { asked: 132, .. })
    ));
}

/// Refusals quote the requests in the words of the program.
#[test]
fn refusals_are_in_the_requests_words() {
    use PartitionRequest as R;
    let said = |driver, requests: &[R]| {
        let facts = facts(132, (9, 0), driver);
        plans(&facts, requests, &h200).unwrap_err().to_string()
    };
    for (driver, requests, expected) in [
        (
            (13, 0),
            &[R::at_least(132), R::rest()][..],
            "`132, rest` needs at least 133 SMs, but at most 132 of the device's 132 are available",
        ),
        (
            (13, 1),
            &[R::at_least(131), R::at_least(1)],
            "`131, 1` needs at least 132 of the 132 SMs, which does not work out in units of 2 SMs; ask for a few SMs less",
        ),
        (
            (13, 0),
            &[R::percent(80), R::share(16, 2), R::target(12)],
            "`80%, 16+2, up to 12` needs at least 133 SMs, but at most 132 of the device's 132 are available",
        ),
        (
            (13, 0),
            &[R::at_least(0)],
            "request = 0: a partition has at least one SM",
        ),
        (
            (13, 0),
            &[R::percent(101)],
            "request = 101%: a partition has 1 to 100 percent of the device",
        ),
        (
            (13, 0),
            &[R::rest(), R::rest()],
            "requests = rest, rest: only one partition can take the rest",
        ),
    ] {
        assert_eq!(said(driver, requests), expected);
    }
    let many = said((13, 0), &[R::at_least(16).cluster(4); 9]);
    assert!(
        many.starts_with("`9 × 16 in clusters of 4` needs at least 144"),
        "{many}"
    );
    let cluster = said((13, 0), &[R::at_least(44).exact().cluster(8); 3]);
    assert!(
        cluster.starts_with(
            "`44 exactly in clusters of 8` cannot be met: the best plan runs clusters of up to 2"
        ),
        "{cluster}"
    );
}

/// The largest groups that do, of which each partition has its own; and what is left over only where units miss it.
#[test]
fn merged_groups_are_as_large_as_can_be_where_units_do_not_do() {
    use PartitionRequest as R;
    let facts = facts(132, (9, 0), (13, 0));
    let by = |requests: &[R]| {
        let plan = first(&facts, requests, &h200);
        let SplitCall::ByCount {
            groups, sm_count, ..
        } = plan.call
        else {
            panic!("{plan:?}");
        };
        (plan.strategy, groups, sm_count, sizes(&plan))
    };
    let merged = SplitStrategy::MergedUnits;
    for (requests, expected) in [
        (&[R::percent(25); 4][..], (4, 32, vec![32; 4])),
        (&[R::percent(50); 2], (2, 64, vec![64; 2])),
        (&[R::at_least(128)], (1, 128, vec![128])),
        (&[R::at_least(20)], (15, 8, vec![24])),
        (&[R::target(4), R::rest()], (15, 8, vec![8, 124])),
        (
            &[R::at_least(12).cluster(8), R::at_least(108).cluster(8)],
            (8, 16, vec![16, 112]),
        ),
    ] {
        let (groups, size, sizes) = expected;
        assert_eq!(by(requests), (merged, groups, size, sizes), "{requests:?}");
    }
    // Where counts round up to more than there is, the largest target is lowered, and units still merge.
    let a100 = super::facts(108, (8, 0), (13, 0));
    let counts = [R::at_least(35), R::at_least(35)];
    for (targets, expected) in [
        (&[R::target(38)][..], &[36, 36, 36][..]),
        (&[R::target(24), R::target(14)], &[36, 36, 22, 14]),
        (&[R::target(20), R::target(18)], &[36, 36, 18, 18]),
    ] {
        let plan = first(&a100, &[&counts, targets].concat(), &by_numbers(a100));
        assert_eq!(
            (sizes(&plan), plan.strategy),
            (expected.to_vec(), SplitStrategy::MergedFineUnits)
        );
    }
}

//! The planner against hand-written expectations and against properties that every plan must have.

use proptest::prelude::*;

use super::*;
use crate::{Capabilities, CudaVersion, Error, Granularity, Result};

fn facts(sm_count: u32, compute_capability: (u32, u32), driver: (u16, u8)) -> DeviceFacts {
    let granularity = Granularity::of(compute_capability, None);
    let capabilities = Capabilities::of(CudaVersion::new(driver.0, driver.1), granularity);
    DeviceFacts {
        sm_count,
        compute_capability,
        capabilities,
    }
}

/// As many groups as the numbers allow; a real chip's topology may allow fewer.
fn by_numbers(facts: DeviceFacts) -> impl Fn(u32, bool) -> Result<u32> {
    move |min, _| Ok(facts.sm_count / min.max(1))
}

fn sizes(plan: &Plan) -> Vec<u32> {
    plan.partitions
        .iter()
        .map(|partition| partition.sm_count)
        .collect()
}

/// As an H200 does it (measured, driver 580).
fn h200(min: u32, fine: bool) -> Result<u32> {
    Ok(match min {
        0..=8 if !fine => 15,
        129..=132 => 1,
        133.. => 0,
        _ if fine => 132 / min,
        _ => 132 / min.next_multiple_of(8),
    })
}

fn first(facts: &DeviceFacts, requests: &[PartitionRequest], count: &GroupCount<'_>) -> Plan {
    let plans = plans(facts, requests, count).unwrap_or_else(|error| panic!("{error}"));
    plans.into_iter().next().unwrap()
}

fn quad(facts: DeviceFacts, count: &GroupCount<'_>) -> Plan {
    first(&facts, &facts.equal_targets(4), count)
}

#[test]
fn quads_have_the_documented_sizes() {
    let cases = [
        ((170, (12, 0), (13, 1)), vec![42, 42, 42, 44], 0, 8),
        ((170, (12, 0), (12, 8)), vec![40, 40, 40, 50], 0, 8),
        ((132, (9, 0), (13, 1)), vec![32, 32, 32, 36], 0, 8),
        ((680, (9, 0), (13, 1)), vec![170, 170, 170, 170], 0, 8),
        ((108, (8, 0), (12, 4)), vec![26, 26, 26, 30], 0, 1),
        ((132, (9, 0), (12, 4)), vec![32, 32, 32, 36], 0, 8),
        ((108, (8, 0), (12, 8)), vec![26, 26, 26, 30], 0, 1),
        ((48, (12, 1), (13, 0)), vec![8, 8, 8, 24], 0, 8),
    ];
    for ((sms, capability, driver), expected, left_over, max_cluster) in cases {
        let facts = facts(sms, capability, driver);
        let plan = quad(facts, &by_numbers(facts));
        assert_eq!(sizes(&plan), expected, "{sms} SMs on {driver:?}");
        assert_eq!((plan.left_over, plan.stranded), (left_over, 0));
        let clusters = plan.partitions.iter().map(|one| one.max_cluster);
        assert_eq!(clusters.min(), Some(max_cluster), "{sms} SMs on {driver:?}");
    }
}

/// The H200's topology allows 15 units of 8 and leaves 12, where 132 / 8 would be 16 and 4 (measured).
#[test]
fn the_quad_of_an_h200_follows_its_topology() {
    let facts = facts(132, (9, 0), (13, 0));
    let plan = quad(facts, &|min, _| Ok(if min == 8 { 15 } else { 132 / min }));
    assert_eq!(sizes(&plan), [32, 32, 32, 36]);
    assert_eq!(plan.partitions[3].parts.last(), Some(&Part::Remainder));
    assert_eq!(
        plan.call,
        SplitCall::ByCount {
            groups: 15,
            min_count: 8,
            fine: false
        }
    );
}

/// Units that ignore co-scheduling are for those who ask for them.
#[test]
fn a_small_device_needs_an_explicit_word_for_finer_units() {
    let before = facts(20, (12, 0), (13, 0));
    let quad_requests = before.equal_targets(4);
    let error = plans(&before, &quad_requests, &by_numbers(before)).unwrap_err();
    let Error::UnitsTooCoarse { unit: 8, help, .. } = error else {
        panic!("{error}");
    };
    assert!(help.contains("exact"), "{help}");
    let mut exact = quad_requests;
    exact[0] = exact[0].exact();
    let plan = first(&before, &exact, &by_numbers(before));
    assert_eq!(
        (sizes(&plan), plan.strategy),
        (vec![4, 4, 4, 8], SplitStrategy::MergedFineUnits)
    );
    assert!(plan.partitions.iter().all(|one| one.max_cluster == 2));
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
        ("percent", &[R::percent(0)]),
        ("percent", &[R::percent(101)]),
        ("percent", &[R::percent(60), R::percent(41)]),
        ("weight", &[R::share(8, 0)]),
        ("sm_count", &[R::rest(), R::rest()]),
        ("sm_count", &[R::rest(), R::share(8, 1)]),
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
    // Exact sizes and clusters: from 13.1 on.
    let both = [R::at_least(42).exact().cluster(8), R::rest()];
    let error = plans(&facts(132, (9, 0), (13, 0)), &both, &h200).unwrap_err();
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
    let two = [PartitionRequest::at_least(66); 2];
    assert!(matches!(
        plans(&facts, &two, &h200),
        Err(Error::InsufficientSms { asked: 132, .. })
    ));
}

#[test]
fn what_cannot_be_met_is_refused_with_numbers() {
    let facts = facts(132, (9, 0), (13, 0));
    let count = by_numbers(facts);
    let refused = |requests: &[SmRequest]| {
        let requests: Vec<_> = requests.iter().map(|sms| (*sms).into()).collect();
        plans(&facts, &requests, &count).unwrap_err()
    };
    assert!(matches!(refused(&[]), Error::InvalidArgument { .. }));
    assert!(matches!(
        refused(&[SmRequest::Target(0)]),
        Error::InvalidArgument { .. }
    ));
    assert!(matches!(
        refused(&[SmRequest::Rest, SmRequest::Rest]),
        Error::InvalidArgument { .. }
    ));
    let huge = refused(&[SmRequest::AtLeast(u32::MAX), SmRequest::AtLeast(u32::MAX)]);
    assert!(matches!(huge, Error::InsufficientSms { total: 132, .. }));
    let too_many = refused(&[SmRequest::AtLeast(100), SmRequest::AtLeast(33)]);
    assert!(matches!(
        too_many,
        Error::InsufficientSms {
            asked: 133,
            available: 132,
            ..
        }
    ));
}

fn any_facts() -> impl Strategy<Value = DeviceFacts> {
    let version = prop::sample::select(vec![(12, 4), (12, 5), (12, 8), (13, 0), (13, 1), (13, 5)]);
    let capability = prop::sample::select(vec![(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)]);
    (1..=700u32, capability, version)
        .prop_map(|(sms, capability, version)| facts(sms, capability, version))
}

fn any_requests() -> impl Strategy<Value = Vec<PartitionRequest>> {
    let sms = prop_oneof![
        4 => (1..=200u32).prop_map(SmRequest::Target),
        4 => (1..=200u32).prop_map(SmRequest::AtLeast),
        2 => (1..=100u32).prop_map(SmRequest::Percent),
        2 => (0..=100u32, 1..=5u32)
            .prop_map(|(at_least, weight)| SmRequest::Share { at_least, weight }),
        1 => Just(SmRequest::Rest),
    ];
    let cluster = prop::sample::select(vec![1, 1, 1, 1, 2, 4, 8]);
    let request = (sms, cluster, prop::bool::weighted(0.1));
    let request = request.prop_map(|(sms, cluster, exact)| PartitionRequest {
        sms,
        cluster,
        exact,
    });
    prop::collection::vec(request, 1..8)
}

/// A plan never hands out a part twice, nor more SMs than there are, and meets what was asked.
fn check(facts: &DeviceFacts, requests: &[PartitionRequest], plan: &Plan) {
    let given: u32 = sizes(plan).iter().sum();
    assert_eq!(
        given + plan.left_over + plan.stranded,
        facts.sm_count,
        "every SM is in a partition or left over: {plan:?}"
    );
    assert!(plan.stranded <= 1, "{plan:?}");
    let mut parts: Vec<Part> = plan
        .partitions
        .iter()
        .flat_map(|p| p.parts.clone())
        .collect();
    parts.sort();
    let all = parts.len();
    parts.dedup();
    assert_eq!(parts.len(), all, "a part is in two partitions: {plan:?}");
    // The sizes of all parts, of the calls alone.
    let mut groups: Vec<u32> = match &plan.call {
        SplitCall::Structured(groups) => groups.iter().map(|group| group.sm_count).collect(),
        SplitCall::ByCount {
            groups, min_count, ..
        } => vec![*min_count; *groups as usize],
    };
    groups.extend(&plan.nested);
    let remainder = facts.sm_count - groups.iter().sum::<u32>();
    for (request, partition) in requests.iter().zip(&plan.partitions) {
        let size_of = |part: &Part| match part {
            Part::Group(index) => groups[*index],
            Part::Remainder => remainder,
        };
        assert_eq!(
            partition.sm_count,
            partition.parts.iter().map(size_of).sum::<u32>()
        );
        assert!(partition.sm_count > 0);
        assert!(partition.max_cluster >= request.cluster, "{plan:?}");
        assert!(partition.sm_count >= partition.max_cluster, "{plan:?}");
        let smallest = facts.capabilities.granularity.min.max(request.cluster);
        match request.sms {
            SmRequest::AtLeast(count) => {
                assert!(partition.sm_count >= count, "{plan:?}");
                if request.exact && request.cluster == 1 {
                    let even = count.next_multiple_of(2);
                    assert!(
                        [even, facts.sm_count].contains(&partition.sm_count),
                        "{plan:?}"
                    );
                }
            }
            SmRequest::Share { at_least, .. } => assert!(partition.sm_count >= at_least),
            // Never above the target, unless it is less than the smallest partition there is.
            SmRequest::Target(count) => {
                assert!(partition.sm_count <= count.max(smallest), "{plan:?}");
            }
            SmRequest::Percent(percent) => {
                let most = facts.sm_count * percent / 100;
                assert!(partition.sm_count <= most.max(smallest), "{plan:?}");
            }
            SmRequest::Rest => {}
        }
    }
    let shares = requests
        .iter()
        .any(|request| matches!(request.sms, SmRequest::Share { .. } | SmRequest::Rest));
    if shares && !facts.capabilities.structured_split {
        assert_eq!(plan.left_over, 0, "{plan:?}");
    }
    if !facts.capabilities.merge {
        assert!(
            plan.partitions
                .iter()
                .all(|partition| partition.parts.len() == 1),
            "nothing merges on 12.4"
        );
    }
}

proptest! {
    #[test]
    fn every_plan_keeps_the_promises(facts in any_facts(), requests in any_requests(), lost in 0..3u32) {
        // A chip whose topology loses a few groups against the plain division.
        let count = |min: u32, _: bool| Ok((facts.sm_count / min.max(1)).saturating_sub(lost).max(1));
        if let Ok(plans) = plans(&facts, &requests, &count) {
            prop_assert!(!plans.is_empty());
            for plan in &plans {
                check(&facts, &requests, plan);
            }
        }
    }

    #[test]
    fn a_quad_strands_nothing(facts in any_facts()) {
        let plans = plans(&facts, &facts.equal_targets(4), &by_numbers(facts));
        if let (Ok(plans), true) = (plans, facts.sm_count % 2 == 0) {
            prop_assert_eq!((plans[0].left_over, plans[0].stranded), (0, 0));
        }
    }
}

mod choosing;

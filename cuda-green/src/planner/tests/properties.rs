//! The promises of every plan, for any device, driver and list of requests.

use proptest::prelude::*;

use super::*;

fn any_facts() -> impl Strategy<Value = DeviceFacts> {
    let features = facts(1, (9, 0), (12, 4)).capabilities.features();
    let steps = features.iter().map(|feature| feature.since);
    let steps: Vec<_> = steps.map(|step| (step.major(), step.minor())).collect();
    let version = prop::sample::select(steps);
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

/// Checks that a plan uses no part twice and no more SMs than there are, and meets the requests.
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
    let mut groups = plan.call.sizes();
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
        // From 13.1 on what is left over merges with nothing.
        let joined = partition.parts.len() > 1 && partition.parts.contains(&Part::Remainder);
        assert!(!joined || facts.remainder_joins(), "{plan:?}");
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
    /// Whatever number of groups the driver counts, a plan uses no more SMs than there are.
    #[test]
    fn a_count_that_cannot_be_does_no_harm(
        facts in any_facts(),
        requests in any_requests(),
        count in prop_oneof![0..700u32, (u32::MAX - 9)..=u32::MAX],
    ) {
        for plan in plans(&facts, &requests, &|_, _| Ok(count)).into_iter().flatten() {
            prop_assert!(sizes(&plan).iter().sum::<u32>() <= facts.sm_count);
        }
    }

    #[test]
    fn every_plan_keeps_the_promises(facts in any_facts(), requests in any_requests(), lost in 0..3u32) {
        // A chip whose topology loses a few groups against the plain division.
        let count = |min: u32, _: SplitFlag| {
            let at_least = u32::from(min <= facts.sm_count);
            Ok((facts.sm_count / min.max(1)).saturating_sub(lost).max(at_least))
        };
        if let Ok(plans) = plans(&facts, &requests, &count) {
            prop_assert!(!plans.is_empty());
            for plan in &plans {
                check(&facts, &requests, plan);
            }
            let is_rest = |sms| matches!(sms, SmRequest::Share { .. } | SmRequest::Rest);
            let shares = requests.iter().any(|request| is_rest(request.sms));
            let exact = requests.iter().any(|request| request.exact);
            if shares && !exact && !facts.capabilities.structured_split {
                prop_assert_eq!(plans[0].left_over, 0, "{:?}", plans[0]);
            }
        }
    }

    #[test]
    fn a_quad_strands_nothing(facts in any_facts()) {
        let plans = plans(&facts, &facts.equal_targets(4), &by_numbers(facts));
        // Where a quarter is less than a unit, equal ones may leave some.
        let has_units = facts.sm_count >= 4 * facts.capabilities.granularity.min;
        if let (Ok(plans), true) = (plans, facts.sm_count % 2 == 0 && has_units) {
            prop_assert_eq!((plans[0].left_over, plans[0].stranded), (0, 0));
        }
    }
}

/// The rest may be rounded down where nothing else works out; one of the same size that is not the rest may not.
#[test]
fn nobody_is_rounded_down_with_the_rest() {
    use PartitionRequest as R;
    let facts = facts(494, (9, 0), (12, 4));
    let requests = [
        R::rest(),
        R::percent(60),
        R::at_least(17),
        R::target(48),
        R::at_least(37),
        R::at_least(55),
    ];
    for plan in plans(&facts, &requests, &by_numbers(facts)).unwrap() {
        check(&facts, &requests, &plan);
    }
}

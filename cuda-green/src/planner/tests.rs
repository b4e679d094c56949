//! The planner against hand-written expectations and against properties that every plan must have.

use proptest::prelude::*;

use super::*;
use crate::{CudaVersion, Granularity};

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

fn quad(facts: DeviceFacts, count: &GroupCount<'_>) -> Plan {
    let plans = plans(&facts, &facts.equal_targets(4), count).unwrap();
    plans.into_iter().next().unwrap()
}

#[test]
fn quads_have_the_documented_sizes() {
    let cases = [
        ((170, (12, 0), (13, 1)), vec![42, 42, 42, 44], 0, 8),
        ((170, (12, 0), (12, 8)), vec![40, 40, 40, 50], 0, 8),
        ((132, (9, 0), (13, 1)), vec![32, 32, 32, 36], 0, 8),
        ((680, (9, 0), (13, 1)), vec![170, 170, 170, 170], 0, 8),
        ((108, (8, 0), (12, 4)), vec![26, 26, 26, 26], 4, 1),
        ((108, (8, 0), (12, 8)), vec![26, 26, 26, 30], 0, 1),
        ((48, (12, 1), (13, 0)), vec![8, 8, 8, 24], 0, 8),
    ];
    for ((sms, capability, driver), expected, left_over, max_cluster) in cases {
        let facts = facts(sms, capability, driver);
        let plan = quad(facts, &by_numbers(facts));
        assert_eq!(sizes(&plan), expected, "{sms} SMs on {driver:?}");
        assert_eq!(
            (plan.left_over, plan.max_cluster),
            (left_over, max_cluster),
            "{sms} SMs on {driver:?}"
        );
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

#[test]
fn a_small_device_gets_finer_units_rather_than_nothing() {
    let before = facts(20, (12, 0), (13, 0));
    let plan = quad(before, &by_numbers(before));
    assert_eq!(
        (sizes(&plan), plan.strategy),
        (vec![4, 4, 4, 8], SplitStrategy::MergedFineUnits)
    );
    let after = facts(20, (12, 0), (13, 1));
    let plan = quad(after, &by_numbers(after));
    assert_eq!((sizes(&plan), plan.coscheduled), (vec![4, 4, 4, 8], 4));
}

#[test]
fn what_cannot_be_met_is_refused_with_numbers() {
    let facts = facts(132, (9, 0), (13, 0));
    let count = by_numbers(facts);
    let refused = |requests: &[SmRequest]| plans(&facts, requests, &count).unwrap_err();
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

fn any_requests() -> impl Strategy<Value = Vec<SmRequest>> {
    let request = prop_oneof![
        (1..=200u32).prop_map(SmRequest::Target),
        (1..=200u32).prop_map(SmRequest::AtLeast),
        Just(SmRequest::Rest),
    ];
    prop::collection::vec(request, 1..8)
}

/// A plan never hands out a part twice, nor more SMs than there are, and meets what was asked.
fn check(facts: &DeviceFacts, requests: &[SmRequest], plan: &Plan) {
    let given: u32 = sizes(plan).iter().sum();
    assert_eq!(
        given + plan.left_over,
        facts.sm_count,
        "every SM is in a partition or left over: {plan:?}"
    );
    let mut parts: Vec<Part> = plan
        .partitions
        .iter()
        .flat_map(|p| p.parts.clone())
        .collect();
    parts.sort();
    let all = parts.len();
    parts.dedup();
    assert_eq!(parts.len(), all, "a part is in two partitions: {plan:?}");
    let size_of = |part: &Part| match (&plan.call, part) {
        (SplitCall::Structured(groups), Part::Group(index)) => groups[*index].sm_count,
        (SplitCall::Structured(_), Part::Remainder) => {
            panic!("a structured plan uses no remainder")
        }
        (
            SplitCall::ByCount {
                groups, min_count, ..
            },
            Part::Group(index),
        ) => {
            assert!((*index as u32) < *groups);
            *min_count
        }
        (
            SplitCall::ByCount {
                groups, min_count, ..
            },
            Part::Remainder,
        ) => facts.sm_count - groups * min_count,
    };
    for (request, partition) in requests.iter().zip(&plan.partitions) {
        assert_eq!(
            partition.sm_count,
            partition.parts.iter().map(size_of).sum::<u32>()
        );
        assert!(partition.sm_count > 0);
        match *request {
            SmRequest::AtLeast(count) => assert!(partition.sm_count >= count, "{plan:?}"),
            // Never above the target, unless it is less than the smallest partition there is.
            SmRequest::Target(count) if plan.strategy != SplitStrategy::EqualGroups => {
                assert!(
                    partition.sm_count <= count.max(facts.capabilities.granularity.min),
                    "{plan:?}"
                );
            }
            _ => {}
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
    fn a_quad_strands_nothing_where_the_driver_merges(facts in any_facts()) {
        let plans = plans(&facts, &facts.equal_targets(4), &by_numbers(facts));
        if let (Ok(plans), true) = (plans, facts.capabilities.merge && facts.sm_count % 2 == 0) {
            prop_assert_eq!(plans[0].left_over, 0);
        }
    }

    /// Against every subset there is: what is chosen is free, enough, and the least that is.
    #[test]
    fn choosing_pieces_is_right_and_thrifty(
        free in prop::collection::vec(any::<bool>(), 1..9),
        rest in prop::option::of(1..30u32),
        odd in any::<bool>(),
        unit in 1..9u32,
        merge in any::<bool>(),
        asked in 1..60u32,
    ) {
        let sizes = |index: usize| if odd && index + 1 == free.len() { unit + 4 } else { unit };
        let groups = free.iter().enumerate().map(|(index, &free)| Piece {
            part: Part::Group(index),
            sm_count: sizes(index),
            free,
        });
        // A split has either a remainder or a last group of another size, never both.
        let rest = rest.filter(|_| !odd).map(|sm_count| Piece { part: Part::Remainder, sm_count, free: true });
        let pieces: Vec<Piece> = groups.chain(rest).collect();
        let best = (1u32..1 << pieces.len())
            .map(|mask| (0..pieces.len()).filter(|index| mask >> index & 1 == 1).collect::<Vec<_>>())
            .filter(|set| set.iter().all(|index| pieces[*index].free))
            .filter(|set| set.iter().any(|index| pieces[*index].part != Part::Remainder))
            .filter(|set| merge || set.len() == 1)
            .map(|set| set.iter().map(|index| pieces[*index].sm_count).sum::<u32>())
            .filter(|sum| *sum >= asked)
            .min()
            .or_else(|| {
                // The remainder alone is the last resort.
                let alone = pieces.iter().find(|piece| piece.part == Part::Remainder && piece.free);
                alone.map(|piece| piece.sm_count).filter(|sum| merge && *sum >= asked)
            });
        let chosen = choose(&pieces, merge, asked);
        let sum = chosen.as_ref().map(|set| set.iter().map(|index| pieces[*index].sm_count).sum::<u32>());
        prop_assert_eq!(sum, best);
        if let Some(mut set) = chosen {
            prop_assert!(set.iter().all(|index| pieces[*index].free));
            let len = set.len();
            set.sort_unstable();
            set.dedup();
            prop_assert_eq!(set.len(), len);
        }
        let (available, stranded) = available(&pieces, merge);
        prop_assert_eq!(choose(&pieces, merge, available.max(1)).is_some(), available > 0);
        prop_assert!(choose(&pieces, merge, available + 1).is_none());
        let free: u32 = pieces.iter().filter(|piece| piece.free).map(|piece| piece.sm_count).sum();
        prop_assert!(available + stranded <= free);
    }
}

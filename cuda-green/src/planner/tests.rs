//! The planner against hand-written expectations and against properties that every plan must have: helpers and
//! the quad.

use super::*;
use cuda_green_sys::CudaVersion;

use crate::{
    capabilities::Capabilities,
    error::{Error, Result},
};

fn facts(sm_count: u32, compute_capability: (u32, u32), driver: (u16, u8)) -> DeviceFacts {
    let driver = CudaVersion::new(driver.0, driver.1);
    let capabilities = Capabilities::of(driver, compute_capability, None);
    DeviceFacts {
        sm_count,
        compute_capability,
        capabilities,
    }
}

/// As many groups as the numbers allow; a real chip's topology may allow fewer.
fn by_numbers(facts: DeviceFacts) -> impl Fn(u32, SplitFlag) -> Result<u32> {
    move |min, _| Ok(facts.sm_count / min.max(1))
}

fn sizes(plan: &Plan) -> Vec<u32> {
    plan.partitions
        .iter()
        .map(|partition| partition.sm_count)
        .collect()
}

/// As an H200 does it (measured, driver 580).
fn h200(min: u32, flag: SplitFlag) -> Result<u32> {
    let fine = flag == SplitFlag::IgnoreCoscheduling;
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
            sm_count: 8,
            flag: SplitFlag::None
        }
    );
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

mod choosing;
mod properties;
mod requests;

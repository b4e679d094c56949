//! The lowering of splits: each way on both sides of the version that has it.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use cuda_green_sys::CudaVersion;

use super::{
    check::{Input, check},
    lowering::{Lowered, Lowering},
    sm_split::{SmCount, SmSplit},
};
use crate::{
    capabilities::{Capabilities, Granularity},
    error::{Error, Result},
    planner::{CountedSplit, Group, MergedGroups, SplitCall, SplitFlag},
};

/// An H200 as it was measured: 15 units of 8 and 12 SMs beside them, or 66 pairs.
const H200: Input = Input {
    total: 132,
    granularity: Granularity {
        min: 8,
        coscheduled: 8,
    },
    has_clusters: true,
};

fn groups_of_h200(size: u32, flag: SplitFlag) -> Result<u32> {
    Ok(match flag {
        SplitFlag::IgnoreCoscheduling => 132 / size.next_multiple_of(2),
        _ => (132 / size.next_multiple_of(8).min(132)).min(15),
    })
}

fn capabilities(major: u16, minor: u8) -> Capabilities {
    Capabilities::of(
        CudaVersion::new(major, minor),
        (9, 0),
        Some(H200.granularity),
    )
}

fn lower(version: (u16, u8), split: &SmSplit) -> Result<Lowered> {
    let lowering = Lowering {
        input: H200,
        capabilities: &capabilities(version.0, version.1),
        groups: &check(&H200, split)?,
        demands_coscheduling: split.coscheduled.is_some(),
        count_groups: &groups_of_h200,
        is_dry_run: false,
    };
    lowering.lower()
}

/// Refused up to one version, done from the next on.
fn since(before: (u16, u8), first: (u16, u8), split: &SmSplit) {
    match lower(before, split) {
        Err(Error::Unsupported { needs, driver, .. }) => {
            assert_eq!(needs, CudaVersion::new(first.0, first.1), "{split:?}");
            assert_eq!(driver, CudaVersion::new(before.0, before.1));
        }
        other => panic!("{split:?}: {other:?}"),
    }
    lower(first, split).unwrap_or_else(|error| panic!("{split:?}: {error}"));
}

#[test]
fn what_needs_a_newer_driver_says_which() {
    for split in [
        SmSplit::groups([64, 32, 24]),
        SmSplit::groups([SmCount::Exactly(16), SmCount::All]),
        SmSplit::equal(2, 10).coscheduled(2),
        SmSplit::groups([14, 6]).coscheduled(2),
        SmSplit::equal(2, 20).backfill([true, true]).coscheduled(2),
        SmSplit::equal(3, 32).coscheduled(8),
        SmSplit::equal(2, 32).preferred_coscheduled(16),
        SmSplit::groups([20]).backfill(true),
    ] {
        since((12, 4), (12, 5), &split);
    }
    for split in [
        SmSplit::groups([16, 10]).coscheduled([8, 2]),
        SmSplit::equal(2, 16).coscheduled(4),
        SmSplit::equal(2, 32).coscheduled(16),
        SmSplit::groups([32, 16]).preferred_coscheduled(16),
        SmSplit::equal(2, 32)
            .coscheduled(2)
            .preferred_coscheduled(8),
        SmSplit::groups([18]).backfill(true),
        // All that is left over can make up one group only.
        SmSplit::groups([20, 20]).backfill(true),
    ] {
        since((12, 5), (13, 1), &split);
        since((13, 0), (13, 1), &split);
    }
    for split in [
        SmSplit::equal(4, 32),
        SmSplit::equal(15, 8).coscheduled(8),
        SmSplit::all(),
        SmSplit::all().backfill(true),
        SmSplit::groups([132]).backfill(true),
    ] {
        for version in [(12, 4), (12, 5), (13, 0), (13, 1), (13, 5)] {
            lower(version, &split).unwrap_or_else(|error| panic!("{split:?}: {error}"));
        }
    }
}

#[test]
fn one_call_makes_it() {
    let by_count = |split: &SmSplit| match lower((13, 0), split).unwrap() {
        Lowered::Groups(SplitCall::ByCount {
            groups,
            sm_count,
            flag,
        }) => (groups, sm_count, flag),
        other => panic!("{split:?}: {other:?}"),
    };
    assert_eq!(by_count(&SmSplit::equal(4, 32)), (4, 32, SplitFlag::None));
    assert_eq!(
        by_count(&SmSplit::equal(4, 30).coscheduled(2)),
        (4, 30, SplitFlag::IgnoreCoscheduling)
    );
    let large = SmSplit::equal(2, 32).preferred_coscheduled(16);
    assert_eq!(by_count(&large), (2, 32, SplitFlag::MaxClusterSize));
    // A driver rounds up to all there is.
    let whole = SmSplit::groups([132]).backfill(true);
    assert_eq!(by_count(&whole), (1, 132, SplitFlag::None));

    let merged = |split: &SmSplit| match lower((13, 0), split).unwrap() {
        Lowered::Merged(units, merged) => {
            let CountedSplit {
                group_sms,
                groups,
                flag,
                ..
            } = units;
            (group_sms, groups, flag, merged)
        }
        other => panic!("{split:?}: {other:?}"),
    };
    let plain = |groups| MergedGroups {
        groups,
        remainder: false,
    };
    let with_rest = |groups| MergedGroups {
        groups,
        remainder: true,
    };
    let unequal = SmSplit::groups([64, 32, 24]);
    let groups = vec![plain(8), plain(4), plain(3)];
    assert_eq!(merged(&unequal), (8, 15, SplitFlag::None, groups));
    // Demanded co-scheduling is made of whole units, which equal groups by count are not.
    let demanded = SmSplit::equal(3, 32).coscheduled(8);
    assert_eq!(
        merged(&demanded),
        (8, 15, SplitFlag::None, vec![plain(4); 3])
    );
    let filled = SmSplit::groups([64, 36]).backfill([false, true]);
    assert_eq!(
        merged(&filled),
        (8, 15, SplitFlag::None, vec![plain(8), with_rest(3)])
    );
    let pairs = SmSplit::groups([14, 6]).coscheduled(2);
    assert_eq!(
        merged(&pairs),
        (
            2,
            66,
            SplitFlag::IgnoreCoscheduling,
            vec![plain(7), plain(3)]
        )
    );
    let all = SmSplit::groups([SmCount::Exactly(16), SmCount::All]).backfill([false, true]);
    assert_eq!(
        merged(&all),
        (8, 15, SplitFlag::None, vec![plain(2), with_rest(13)])
    );

    let Lowered::Groups(SplitCall::Structured(groups)) = lower(
        (13, 1),
        &SmSplit::groups([64, 10]).coscheduled([8, 2]).backfill(true),
    )
    .unwrap() else {
        panic!("13.1 has the structured split");
    };
    assert_eq!(groups, [Group::new(64, 8, true), Group::new(10, 2, true)]);
}

#[test]
fn more_than_there_is_in_such_groups() {
    for (split, asked, available) in [
        (SmSplit::equal(16, 8), 128, 120),
        (SmSplit::equal(4, 32).coscheduled(8), 128, 120),
        (SmSplit::groups([64, 32, 32]), 128, 120),
        (SmSplit::groups([SmCount::All, SmCount::Exactly(8)]), 8, 120),
    ] {
        match lower((13, 0), &split) {
            Err(Error::UnmetSplit {
                asked: said,
                available: of,
                total: 132,
                ..
            }) => assert_eq!((said, of), (asked, available)),
            other => panic!("{split:?}: {other:?}"),
        }
    }
    for (split, said) in [
        (
            SmSplit::equal(16, 8),
            "the groups (16 × 8) need 128 SMs; 120 of 132 are available for groups of this kind",
        ),
        (
            SmSplit::groups([SmCount::Exactly(120), SmCount::All]),
            "the groups (120 + all) need 120 SMs; 120 of 132 are available for groups of this kind, so one of them gets none",
        ),
    ] {
        assert_eq!(lower((13, 0), &split).unwrap_err().to_string(), said);
    }
    let too_much = SmSplit::groups([100, 40]).backfill(true);
    assert!(matches!(
        lower((13, 5), &too_much),
        Err(Error::UnmetSplit { asked: 140, .. })
    ));
    let overflow = SmSplit::equal(3, u32::MAX - 7);
    assert!(matches!(
        lower((13, 5), &overflow),
        Err(Error::UnmetSplit { .. })
    ));
}

#[test]
fn a_group_has_a_co_scheduled_unit_even_filled_up() {
    let split = SmSplit::groups([4]).backfill(true);
    assert!(matches!(
        lower((13, 1), &split),
        Err(Error::InvalidArgument {
            name: "sm_count",
            ..
        })
    ));
    assert!(lower((13, 1), &split.coscheduled(2)).is_ok());
}

/// Any number of groups beyond the device is refused, and does not exhaust memory.
#[test]
fn groups_beyond_number_are_refused() {
    for groups in [67, 1 << 40, usize::MAX] {
        let refused = lower((13, 0), &SmSplit::equal(groups, 2)).unwrap_err();
        assert!(
            matches!(
                refused,
                Error::InvalidArgument { .. } | Error::UnmetSplit { .. }
            ),
            "{groups}: {refused}"
        );
    }
}

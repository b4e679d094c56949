//! The explicit model: splits, their sizes held against the SMs that their parts run on.

use std::collections::BTreeSet;

use cuda_green::{Driver, Error, Result, SmCount, SmResource, SmSplit};

use crate::{
    Case,
    support::{assert_disjoint, needs, over, partitioned_device, since, sm_ids},
};

pub const CASES: &[Case] = &[
    ("splits/into_equal_groups", equal_groups),
    ("splits/into_unequal_groups", unequal_groups),
    ("splits/into_pairs", pairs),
    ("splits/as_many_as_there_are", discovery),
    ("splits/filled_up", backfill),
    ("splits/that_cannot_be", refused_splits),
];

/// Contexts over all parts of a split run on as many SMs as each part says, none twice, all together.
fn run_on_all(parts: &[SmResource], total: u32) -> Result<Vec<BTreeSet<u32>>> {
    let contexts = parts.iter().map(over).collect::<Result<Vec<_>>>()?;
    let sets = contexts.iter().map(sm_ids).collect::<Result<Vec<_>>>()?;
    assert_disjoint(&sets);
    let seen: usize = sets.iter().map(BTreeSet::len).sum();
    assert_eq!(seen, total as usize, "nothing is lost");
    for (part, set) in parts.iter().zip(&sets) {
        assert_eq!(part.sm_count() as usize, set.len());
    }
    Ok(sets)
}

/// Splits, and runs on every part. Gives the sizes of the groups.
fn split_and_run(all: &SmResource, split: &SmSplit) -> Result<Vec<u32>> {
    let foreseen = all.dry_run(split)?;
    let parts = all.split(split)?;
    let sizes: Vec<u32> = parts.groups.iter().map(SmResource::sm_count).collect();
    let rest = parts.remainder.as_ref().map_or(0, SmResource::sm_count);
    assert_eq!((&sizes, rest), (&foreseen.groups, foreseen.remainder));
    let resources: Vec<SmResource> = parts.groups.into_iter().chain(parts.remainder).collect();
    run_on_all(&resources, all.sm_count())?;
    Ok(sizes)
}

fn equal_groups(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let quarter = all.sm_count() / 4 / 8 * 8;
    for (groups, size) in [(1, 8), (3, quarter), (1, quarter * 2)] {
        let sizes = split_and_run(&all, &SmSplit::equal(groups, size))?;
        assert_eq!(sizes, vec![size; groups]);
    }
    Ok(())
}

fn unequal_groups(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let unit = device.capabilities().granularity.min;
    let sizes = [4 * unit, 2 * unit, unit];
    let split = SmSplit::groups(sizes);
    if !device.capabilities().merge {
        needs(all.split(&split), 12, 5);
        needs(all.dry_run(&split), 12, 5);
        return Ok(());
    }
    assert_eq!(split_and_run(&all, &split)?, sizes);
    if all.sm_count() == 132 {
        // What cuda.core refuses below 13.1.
        let split = SmSplit::groups([64, 32, 24]);
        assert_eq!(split_and_run(&all, &split)?, [64, 32, 24]);
        let parts = all.split(&split)?;
        let clusters = parts.groups.iter().map(over).collect::<Result<Vec<_>>>()?;
        assert!(
            clusters
                .iter()
                .all(|context| context.max_cluster_size() == 8)
        );
        let rest = over(parts.remainder.as_ref().unwrap())?;
        assert_eq!((rest.sm_count(), rest.max_cluster_size()), (12, 2));
    }
    Ok(())
}

/// Sizes to 2 SMs, where clusters are not needed.
fn pairs(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let usual = device.capabilities().granularity.coscheduled;
    for sizes in [[10, 10], [14, 6]] {
        let split = SmSplit::groups(sizes).coscheduled(2);
        if since(driver, 12, 5) {
            assert_eq!(split_and_run(&all, &split)?, sizes);
        } else if usual > 2 || sizes[0] != sizes[1] {
            needs(all.split(&split), 12, 5);
        }
    }
    if since(driver, 12, 5) {
        let parts = all.split(&SmSplit::groups([14, 6]).coscheduled(2))?;
        assert_eq!(parts.groups[0].coscheduled_alignment(), 2);
        let expected = if device.properties().compute_capability.0 >= 9 {
            2
        } else {
            1
        };
        let context = over(&parts.groups[0])?;
        assert_eq!(context.max_cluster_size(), expected);
        assert_eq!(context.sm_resource()?.coscheduled_alignment(), 2);
    }
    Ok(())
}

fn discovery(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let unit = device.capabilities().granularity.coscheduled;
    let found = split_and_run(&all, &SmSplit::all())?;
    assert_eq!(found[0] % unit, 0);
    assert!(found[0] * 10 >= all.sm_count() * 9, "{found:?}");
    let filled = split_and_run(&all, &SmSplit::all().backfill(true))?;
    assert_eq!(filled, [all.sm_count()]);
    let and_the_rest = SmSplit::groups([SmCount::Exactly(16), SmCount::All]);
    if !device.capabilities().merge {
        needs(all.split(&and_the_rest), 12, 5);
        return Ok(());
    }
    let sizes = split_and_run(&all, &and_the_rest)?;
    assert_eq!(sizes[0], 16);
    assert!(sizes[1] >= unit && sizes[1] % unit == 0);
    // A group after one that takes all finds nothing: the dry run says so, the split refuses.
    let twice = SmSplit::groups([SmCount::All, SmCount::All]);
    assert_eq!(all.dry_run(&twice)?.groups[1], 0);
    assert!(matches!(
        all.split(&twice),
        Err(Error::UnmetSplit { .. } | Error::SplitRefused { .. })
    ));
    Ok(())
}

/// With backfill the last group has what no unit divides.
fn backfill(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    if all.sm_count() != 132 || !device.capabilities().merge {
        return Ok(());
    }
    // 15 units of 8 and 12 SMs beside them.
    let whole = SmSplit::groups([64, 32, 36]).backfill([false, false, true]);
    let sizes = split_and_run(&all, &whole)?;
    assert_eq!(sizes, [64, 32, 36]);
    let between = SmSplit::groups([64, 10]).backfill(true);
    if device.capabilities().structured_split {
        assert_eq!(split_and_run(&all, &between)?, [64, 10]);
    } else {
        needs(all.split(&between), 13, 1);
    }
    Ok(())
}

/// What can never be is found before the driver is asked to split anything.
fn refused_splits(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let total = all.sm_count();
    let unit = device.capabilities().granularity.coscheduled;
    let clusters = device.properties().compute_capability.0 >= 9;
    let most = if clusters { 32 } else { 2 };
    let none: [u32; 0] = [];
    for (split, name) in [
        (SmSplit::groups(none), "groups"),
        (SmSplit::groups([0]), "sm_count"),
        (SmSplit::groups([unit + 1]), "sm_count"),
        (SmSplit::groups([unit * 2 + 1]).backfill(true), "sm_count"),
        (SmSplit::groups([unit]).coscheduled(0), "coscheduled"),
        (SmSplit::groups([unit]).coscheduled(3), "coscheduled"),
        (SmSplit::groups([64]).coscheduled(most + 2), "coscheduled"),
        (SmSplit::groups([16]).coscheduled([2, 2]), "coscheduled"),
        (
            SmSplit::groups([16, 16, 16]).backfill([true, false]),
            "backfill",
        ),
        (
            SmSplit::groups([16, 16]).preferred_coscheduled([2, 2, 2]),
            "preferred_coscheduled",
        ),
        (
            SmSplit::groups([16]).preferred_coscheduled(most + 2),
            "preferred_coscheduled",
        ),
    ] {
        for result in [all.split(&split).map(drop), all.dry_run(&split).map(drop)] {
            match result {
                Err(Error::InvalidArgument { name: said, .. }) => assert_eq!(said, name),
                result => panic!("{split:?}: {result:?}"),
            }
        }
    }
    if clusters {
        for split in [
            SmSplit::groups([16]).coscheduled(32),
            SmSplit::groups([16])
                .coscheduled(8)
                .preferred_coscheduled(12),
        ] {
            assert!(matches!(
                all.split(&split),
                Err(Error::InvalidArgument { .. })
            ));
        }
    }
    let half = total / 2 / 8 * 8;
    let split = SmSplit::groups([half, half, half]);
    match all.split(&split) {
        Err(Error::UnmetSplit {
            asked, total: of, ..
        }) => {
            assert_eq!((asked, of), (3 * half, total));
        }
        result => panic!("{result:?}"),
    }
    // Parts of a split are not split again, but for what a structured one leaves over.
    let parts = all.split(&SmSplit::equal(2, 16))?;
    let again = SmSplit::equal(1, 8);
    assert!(matches!(
        parts.groups[0].split(&again),
        Err(Error::SplitAgain { sm_count: 16 })
    ));
    assert!(matches!(
        parts.groups[0].dry_run(&again),
        Err(Error::SplitAgain { .. })
    ));
    let rest = parts.remainder.unwrap();
    if device.capabilities().structured_split {
        let inner = rest.split(&again.coscheduled(2))?;
        let mut all_parts = parts.groups.clone();
        all_parts.extend(inner.groups);
        all_parts.extend(inner.remainder);
        run_on_all(&all_parts, total)?;
    } else {
        assert!(matches!(rest.split(&again), Err(Error::SplitAgain { .. })));
    }
    Ok(())
}

//! The explicit model: resources, splits and merges of them, contexts and streams made of them.

use std::collections::BTreeSet;

use cuda_green::{
    ContextPriority, CudaDevice, CudaVersion, Driver, Error, Event, GreenContext,
    GreenContextConfig, Result, SmCount, SmResource, SmSplit, Stream, StreamOptions,
    WorkqueueIsolation, WorkqueueScope,
};

use crate::{
    Case,
    support::{assert_disjoint, current, is_partitioned, quad, sm_ids},
};

pub const CASES: &[Case] = &[
    ("resources/of_device_context_and_stream", of_each),
    ("resources/splits_into_equal_groups", equal_groups),
    ("resources/splits_into_unequal_groups", unequal_groups),
    ("resources/splits_into_pairs", pairs),
    ("resources/as_many_as_there_are", discovery),
    ("resources/filled_up", backfill),
    ("resources/one_context_from_several", from_several),
    ("resources/merges_that_would_count_twice", refused_merges),
    ("resources/splits_that_cannot_be", refused_splits),
    ("resources/contexts_within_a_context", within_a_context),
    ("resources/workqueues", workqueues),
    ("resources/workqueues_of_a_manager", workqueues_of_a_manager),
    ("resources/streams_as_asked_for", streams),
    ("resources/a_current_context_is_not_closed", current_is_kept),
];

/// The device where it can be partitioned.
fn device(driver: &Driver) -> Result<Option<CudaDevice>> {
    let device = driver.device(0)?;
    Ok(device.supports_required_features().then_some(device))
}

fn since(driver: &Driver, major: u16, minor: u8) -> bool {
    driver.version() >= CudaVersion::new(major, minor)
}

fn over(resource: &SmResource) -> Result<GreenContext> {
    let one = std::slice::from_ref(resource);
    GreenContext::from_resources(one, None, GreenContextConfig::default())
}

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

fn needs<T: std::fmt::Debug>(result: Result<T>, major: u16, minor: u8) {
    match result {
        Err(Error::Unsupported { needs, .. }) => assert_eq!(needs, CudaVersion::new(major, minor)),
        other => panic!("{other:?}"),
    }
}

fn of_each(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    if !is_partitioned(driver) {
        assert!(matches!(
            device.sm_resource(),
            Err(Error::MissingEntryPoint(_))
        ));
        return Ok(());
    }
    let all = device.sm_resource()?;
    assert_eq!(all.sm_count(), device.properties().multiprocessor_count);
    let granularity = device.capabilities().granularity;
    assert_eq!(all.min_partition_size(), granularity.min);
    assert_eq!(all.coscheduled_alignment(), granularity.multiple);
    assert_eq!(all.flags(), 0);
    let primary = GreenContext::primary(
        &device,
        GreenContextConfig {
            sm_count: 1,
            ..GreenContextConfig::default()
        },
    )?;
    assert_eq!(primary.sm_resource()?.sm_count(), all.sm_count());
    let size = all.sm_count() / 4 / 8 * 8;
    let parts = all.split(&SmSplit::equal(3, size))?;
    let context = over(&parts.groups[1])?;
    let stream = context.create_stream()?;
    let event = Event::new(&device)?;
    for resource in [context.sm_resource()?, stream.sm_resource()?] {
        assert_eq!(resource.sm_count(), size);
        assert_eq!(resource.coscheduled_alignment(), granularity.multiple);
        assert_eq!(resource.device().ordinal(), device.ordinal());
    }
    assert_eq!(
        primary.create_stream()?.sm_resource()?.sm_count(),
        all.sm_count()
    );
    assert_eq!(event.device().ordinal(), stream.device().ordinal());
    assert_eq!(stream.context().raw(), context.raw());
    Ok(())
}

fn equal_groups(driver: &Driver) -> Result<()> {
    let Some(device) = device(driver)? else {
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
    let Some(device) = device(driver)? else {
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
    let Some(device) = device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let usual = device.capabilities().granularity.multiple;
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
        assert_eq!(over(&parts.groups[0])?.max_cluster_size(), expected);
    }
    Ok(())
}

fn discovery(driver: &Driver) -> Result<()> {
    let Some(device) = device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let unit = device.capabilities().granularity.multiple;
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
    let Some(device) = device(driver)? else {
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

fn from_several(driver: &Driver) -> Result<()> {
    let Some(device) = device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let size = all.sm_count() / 4 / 8 * 8;
    let parts = all.split(&SmSplit::equal(3, size))?;
    let config = GreenContextConfig::default();
    let of = |resources: &[SmResource]| GreenContext::from_resources(resources, None, config);
    if !device.capabilities().merge {
        needs(of(&parts.groups[..2]), 12, 5);
        return Ok(());
    }
    let two = of(&parts.groups[..2])?;
    let one = of(&parts.groups[2..])?;
    assert_eq!(two.sm_count(), 2 * size);
    assert_eq!(two.sm_resource()?.sm_count(), 2 * size);
    assert_disjoint(&[sm_ids(&two)?, sm_ids(&one)?]);
    let rest = parts.remainder.clone().unwrap();
    let with_rest = [parts.groups[2].clone(), rest.clone()];
    let merged = SmResource::merge(&with_rest);
    if device.capabilities().structured_split
        && rest.coscheduled_alignment() != all.coscheduled_alignment()
    {
        assert!(matches!(merged, Err(Error::IncompatibleResources { .. })));
    } else {
        let merged = merged?;
        assert_eq!(merged.sm_count(), size + rest.sm_count());
        assert_eq!(merged.coscheduled_alignment(), 2);
        drop(one);
        let one = of(&with_rest)?;
        assert_disjoint(&[sm_ids(&two)?, sm_ids(&one)?]);
        // A group's co-scheduling holds beside a remainder (measured on an H200).
        assert_eq!(one.max_cluster_size(), two.max_cluster_size());
    }
    let too_many = GreenContextConfig {
        sm_count: size + 1,
        ..config
    };
    assert!(matches!(
        GreenContext::from_resources(&parts.groups[..1], None, too_many),
        Err(Error::InsufficientSms { asked, available, .. }) if (asked, available) == (size + 1, size)
    ));
    Ok(())
}

/// What a driver of 13.0 takes, and then counts wrongly (measured on an H200).
fn refused_merges(driver: &Driver) -> Result<()> {
    let Some(device) = device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let split = SmSplit::equal(2, 16);
    let (one, other) = (all.split(&split)?.groups, all.split(&split)?.groups);
    let refused = |resources: &[&SmResource], word: &str| {
        let resources: Vec<SmResource> = resources.iter().map(|part| (*part).clone()).collect();
        for result in [
            SmResource::merge(&resources).map(drop),
            GreenContext::from_resources(&resources, None, GreenContextConfig::default()).map(drop),
        ] {
            match result {
                Err(error @ Error::IncompatibleResources { .. }) => {
                    assert!(error.to_string().contains(word), "{error}")
                }
                result => panic!("{result:?}"),
            }
        }
    };
    refused(&[], "no resource");
    refused(&[&one[0], &other[1]], "one split call");
    refused(&[&one[0], &one[0]], "twice");
    refused(&[&all, &one[0]], "all of its SMs");
    refused(&[&one[0], &all], "one split call");
    refused(&[&all, &all], "all of its SMs");
    if device.capabilities().merge {
        let both = SmResource::merge(&one)?;
        refused(&[&both, &one[1]], "twice");
    }
    if driver.is_simulated() {
        let profile = format!("2x{}", driver.source().trim_start_matches("sim:"));
        let two = Driver::simulated(&cuda_green::sim::Sim::new(&profile)?)?;
        let parts = |ordinal| two.device(ordinal)?.sm_resource()?.split(&split);
        refused(
            &[&parts(0)?.groups[0], &parts(1)?.groups[1]],
            "different devices",
        );
        refused(&[&one[0], &parts(0)?.groups[1]], "different devices");
    }
    Ok(())
}

/// What can never be is found before the driver is asked to split anything.
fn refused_splits(driver: &Driver) -> Result<()> {
    let Some(device) = device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let total = all.sm_count();
    let unit = device.capabilities().granularity.multiple;
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

fn within_a_context(driver: &Driver) -> Result<()> {
    let Some(device) = device(driver)? else {
        return Ok(());
    };
    let all = device.sm_resource()?;
    let outer = over(&all.split(&SmSplit::equal(1, 32))?.groups[0])?;
    let own = outer.sm_resource()?;
    let parts = own.split(&SmSplit::equal(1, 8))?;
    let inner = over(&parts.groups[0])?;
    let rest = over(parts.remainder.as_ref().unwrap())?;
    let (outer_ids, inner_ids, rest_ids) = (sm_ids(&outer)?, sm_ids(&inner)?, sm_ids(&rest)?);
    assert!(inner_ids.is_subset(&outer_ids) && rest_ids.is_subset(&outer_ids));
    assert_eq!((inner_ids.len(), rest_ids.len()), (8, 24));
    assert_disjoint(&[inner_ids, rest_ids]);
    let mixed = [
        parts.groups[0].clone(),
        all.split(&SmSplit::equal(1, 32))?.groups[0].clone(),
    ];
    assert!(matches!(
        SmResource::merge(&mixed),
        Err(Error::IncompatibleResources { .. })
    ));
    Ok(())
}

fn workqueues(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    if !since(driver, 13, 1) {
        needs(device.workqueue(), 13, 1);
        if let Some(device) = self::device(driver)? {
            let context = over(&device.sm_resource()?)?;
            needs(context.workqueue(), 13, 1);
            needs(context.existing_workqueue(), 13, 1);
            let WorkqueueIsolation::Shared { reason } = context.workqueue_isolation() else {
                panic!("{context:?}");
            };
            assert!(reason.contains("without a workqueue"), "{reason}");
        }
        return Ok(());
    }
    let default = device.workqueue()?;
    assert_eq!(default.scope(), Some(WorkqueueScope::DeviceWide));
    let limit = default.concurrency_limit().unwrap();
    assert!(limit > 0 && !default.is_existing());
    assert!(matches!(
        default.clone().with_concurrency_limit(0),
        Err(Error::InvalidArgument {
            name: "concurrency_limit",
            ..
        })
    ));
    let parts = device.sm_resource()?.split(&SmSplit::equal(3, 16))?.groups;
    let config = GreenContextConfig::default();
    let balanced = default
        .clone()
        .with_scope(WorkqueueScope::GreenContextBalanced)?
        .with_concurrency_limit(3)?;
    let one = GreenContext::from_resources(&parts[..1], Some(&balanced), config)?;
    let its = one.workqueue()?;
    assert_eq!(
        (its.scope(), its.concurrency_limit()),
        (Some(WorkqueueScope::GreenContextBalanced), Some(3))
    );
    assert_eq!(*one.workqueue_isolation(), WorkqueueIsolation::Balanced);
    // Another context through the same one, which keeps the first alive.
    let existing = one.existing_workqueue()?;
    assert!(existing.is_existing() && existing.scope().is_none());
    assert!(existing.concurrency_limit().is_none());
    assert!(matches!(
        existing.clone().with_scope(WorkqueueScope::DeviceWide),
        Err(Error::InvalidArgument { name: "scope", .. })
    ));
    let two = GreenContext::from_resources(&parts[1..2], Some(&existing), config)?;
    assert_eq!(two.workqueue()?.concurrency_limit(), Some(3));
    assert!(matches!(
        two.workqueue_isolation(),
        WorkqueueIsolation::Shared { .. }
    ));
    drop(existing);
    let (one, error) = one.close().unwrap_err();
    assert!(
        matches!(error, Error::ContextInUse { holders: 1, .. }),
        "{error}"
    );
    two.close().unwrap();
    one.unwrap().close().unwrap();
    let plain = GreenContext::from_resources(&parts[2..], Some(&default), config)?;
    assert_eq!(plain.workqueue()?.concurrency_limit(), Some(limit));
    assert!(matches!(
        plain.workqueue_isolation(),
        WorkqueueIsolation::Shared { .. }
    ));
    if driver.is_simulated() {
        let profile = format!("2x{}", driver.source().trim_start_matches("sim:"));
        let pair = Driver::simulated(&cuda_green::sim::Sim::new(&profile)?)?;
        let foreign = pair.device(1)?.workqueue()?;
        let sms = [pair.device(0)?.sm_resource()?];
        assert!(matches!(
            GreenContext::from_resources(&sms, Some(&foreign), config),
            Err(Error::IncompatibleResources { .. })
        ));
    }
    Ok(())
}

/// A manager asks for workqueues of its contexts' own where there are such.
fn workqueues_of_a_manager(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    for context in crate::support::contexts(&manager)? {
        match context.workqueue_isolation() {
            WorkqueueIsolation::Balanced => {
                assert!(since(driver, 13, 1));
                let scope = context.workqueue()?.scope();
                assert_eq!(scope, Some(WorkqueueScope::GreenContextBalanced));
            }
            WorkqueueIsolation::Shared { reason } => {
                assert!(!since(driver, 13, 1) || !driver.is_simulated(), "{reason}");
                assert!(!reason.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

fn streams(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let context = match self::device(driver)? {
        Some(device) => over(&device.sm_resource()?.split(&SmSplit::equal(1, 16))?.groups[0])?,
        None => GreenContext::primary(
            &device,
            GreenContextConfig {
                sm_count: 1,
                ..GreenContextConfig::default()
            },
        )?,
    };
    let before = current(driver);
    let options = StreamOptions::default();
    let offered = device.stream_priorities()?;
    for number in offered.clone() {
        let stream = context.create_stream_with(&options.raw_priority(number))?;
        assert_eq!(stream.priority()?, number);
        assert_eq!(stream.context().raw(), context.raw());
    }
    let level = |level| -> Result<Stream> { context.create_stream_with(&options.priority(level)) };
    assert_eq!(
        level(ContextPriority::Critical)?.priority()?,
        *offered.start()
    );
    assert_eq!(level(ContextPriority::Low)?.priority()?, *offered.end());
    for number in [offered.start() - 1, offered.end() + 1, i32::MIN, i32::MAX] {
        assert!(matches!(
            context.create_stream_with(&options.raw_priority(number)),
            Err(Error::InvalidArgument {
                name: "priority",
                ..
            })
        ));
    }
    let Err(error) = context.create_stream_with(&options.non_blocking(false)) else {
        panic!("a blocking stream");
    };
    assert!(
        error
            .to_string()
            .contains("green streams must be non-blocking"),
        "{error}"
    );
    assert_eq!(
        current(driver),
        before,
        "the thread's current context was touched"
    );
    Ok(())
}

/// Foreign code made it current: it is kept, since the thread would be left with a dangling handle.
fn current_is_kept(driver: &Driver) -> Result<()> {
    let Some(device) = device(driver)? else {
        return Ok(());
    };
    let parts = device.sm_resource()?.split(&SmSplit::equal(2, 16))?.groups;
    let context = over(&parts[0])?;
    // SAFETY: the context is live; null is allowed.
    let set = |raw| {
        unsafe { driver.api().cuCtxSetCurrent(raw) }
            .unwrap()
            .ok()
            .unwrap()
    };
    set(context.raw_context()?);
    let (context, error) = context.close().unwrap_err();
    assert!(matches!(error, Error::ContextIsCurrent), "{error}");
    let context = context.unwrap();
    assert_eq!(sm_ids(&context)?.len(), 16, "it is as it was");
    set(std::ptr::null_mut());
    context.close().unwrap();

    // A guard holds it, so the refusal is another one.
    let context = over(&parts[0])?;
    let other = context.clone();
    let guard = other.activate()?;
    let (context, error) = context.close().unwrap_err();
    assert!(matches!(error, Error::ContextInUse { .. }), "{error}");
    drop(guard);
    drop(other);
    context.unwrap().close().unwrap();

    // Dropped while it is current, it leaves the thread without a context rather than with a dead one.
    let context = over(&parts[1])?;
    set(context.raw_context()?);
    drop(context);
    assert_eq!(current(driver), 0);
    Ok(())
}

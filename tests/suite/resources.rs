//! The explicit model: resources, merges of them, contexts and streams made of them.

use cuda_green::{
    CUresult, ContextPolicy, ContextPriority, Driver, Error, Event, GreenContext,
    GreenContextConfig, Result, SmResource, SmSplit, Stream, StreamOptions, WorkqueueIsolation,
    WorkqueueScope, sys::CUdevice_attribute,
};

use crate::{
    Case,
    support::{
        assert_disjoint, current, is_partitioned, needs, over, partitioned_device, quad, since,
        sm_ids,
    },
};

pub const CASES: &[Case] = &[
    ("resources/of_device_context_and_stream", of_each),
    ("resources/attributes_of_a_device", attributes),
    ("resources/one_context_from_several", from_several),
    ("resources/merges_that_would_count_twice", refused_merges),
    ("resources/contexts_within_a_context", within_a_context),
    ("resources/workqueues", workqueues),
    ("resources/workqueues_of_a_manager", workqueues_of_a_manager),
    ("resources/streams_as_asked_for", streams),
    ("resources/a_current_context_is_not_closed", current_is_kept),
];

/// Those that `cuda-green check` asks for, one that is known otherwise, and one that no driver has.
fn attributes(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let which = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let count = device.attribute(which)?;
    assert_eq!(count as u32, device.properties().multiprocessor_count);
    let mode = device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)?;
    assert!([0, 2, 3].contains(&mode), "{mode}");
    let shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MPS_ENABLED;
    match device.attribute(shared) {
        Ok(shared) => assert!([0, 1].contains(&shared), "{shared}"),
        Err(_) => assert!(!is_partitioned(driver), "12.4 has the attribute"),
    }
    let none = device.attribute(CUdevice_attribute(100_000));
    let code = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert!(
        matches!(none, Err(Error::Driver { code: is, .. }) if is == code),
        "{none:?}"
    );
    Ok(())
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
    assert_eq!(all.coscheduled_alignment(), granularity.coscheduled);
    assert_eq!(all.flags(), 0);
    let primary = GreenContext::primary(&device, ContextPolicy::default())?;
    assert_eq!(primary.sm_resource()?.sm_count(), all.sm_count());
    let size = all.sm_count() / 4 / 8 * 8;
    let parts = all.split(&SmSplit::equal(3, size))?;
    let context = over(&parts.groups[1])?;
    let stream = context.create_stream()?;
    let event = Event::new(&device)?;
    for resource in [context.sm_resource()?, stream.sm_resource()?] {
        assert_eq!(resource.sm_count(), size);
        assert_eq!(resource.coscheduled_alignment(), granularity.coscheduled);
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

fn from_several(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
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
    let Some(device) = partitioned_device(driver)? else {
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

fn within_a_context(driver: &Driver) -> Result<()> {
    let Some(device) = partitioned_device(driver)? else {
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
        if let Some(device) = partitioned_device(driver)? {
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
    let (one, error) = one.close().unwrap_err().into_parts();
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
    let context = match partitioned_device(driver)? {
        Some(device) => over(&device.sm_resource()?.split(&SmSplit::equal(1, 16))?.groups[0])?,
        None => GreenContext::primary(&device, ContextPolicy::default())?,
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
            .contains("streams of green contexts must be non-blocking"),
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
    let Some(device) = partitioned_device(driver)? else {
        return Ok(());
    };
    let parts = device.sm_resource()?.split(&SmSplit::equal(2, 16))?.groups;
    let context = over(&parts[0])?;
    let set = |raw| {
        // SAFETY: the context is live; null is allowed.
        let result = unsafe { driver.api().cuCtxSetCurrent(raw) };
        result.unwrap().ok().unwrap();
    };
    set(context.raw_context()?);
    let (context, error) = context.close().unwrap_err().into_parts();
    assert!(matches!(error, Error::ContextIsCurrent), "{error}");
    let context = context.unwrap();
    assert_eq!(sm_ids(&context)?.len(), 16, "it is as it was");
    set(std::ptr::null_mut());
    context.close().unwrap();

    // A guard holds it, so the refusal is another one.
    let context = over(&parts[0])?;
    let other = context.clone();
    let guard = other.activate()?;
    let (context, error) = context.close().unwrap_err().into_parts();
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

//! Contexts created one by one, their lifetimes, streams, events and kernels.

use cuda_green::{
    ContextId, ContextPriority, CudaVersion, Driver, Error, Event, GreenContext, HandOff,
    LaunchConfig, Module, PartitionMode, Result, SmPartitionManager, StreamHome, kernels,
    planner::PartitionRequest,
};

use crate::{
    Case,
    support::{
        assert_disjoint, config, contexts, is_partitioned, kernel, low, quad, sm_ids, times,
    },
};

pub const CASES: &[Case] = &[
    ("contexts/one_by_one_until_nothing_is_left", one_by_one),
    (
        "contexts/from_many_threads_never_too_many",
        from_many_threads,
    ),
    ("contexts/unequal_sizes_with_nothing_left", unequal),
    ("contexts/freed_sms_are_given_again", freed_sms),
    ("contexts/in_use_is_not_destroyed", in_use),
    ("contexts/streams_outlive_everything", streams_outlive),
    ("contexts/close_waits_and_reports", close),
    ("contexts/events_order_across_partitions", events),
    ("contexts/kernels_write_what_they_should", kernels),
    ("contexts/priorities_are_in_order", priorities),
    ("contexts/names_of_any_kind", own_names),
    ("contexts/a_fault_poisons_and_nothing_hangs", poisoned),
    (
        "contexts/one_manager_at_a_time_splits_a_device",
        one_manager,
    ),
];

/// Contexts of growing size until the manager refuses: never more SMs than there are, and no SM twice.
fn one_by_one(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device)?;
    let total = manager.allocation_status().total_sms;
    let mut sets = Vec::new();
    let mut refusal = None;
    for id in 1.. {
        let asked = id * 5;
        match manager.create_context(id, config(asked)) {
            Ok(context) => {
                assert!(context.sm_count() >= asked);
                sets.push(sm_ids(&context)?);
            }
            Err(error) => {
                refusal = Some((asked, error));
                break;
            }
        }
        let status = manager.allocation_status();
        assert!(status.allocated_sms <= total);
        assert!(status.allocated_sms + status.available_sms + status.stranded_sms <= total);
    }
    let Some((
        asked,
        Error::InsufficientSms {
            asked: said,
            available,
            total: of,
            ..
        },
    )) = refusal
    else {
        panic!("the refusal was {refusal:?}");
    };
    assert_eq!((asked, total), (said, of));
    assert!(
        available < asked,
        "{available} could have been given for {asked}"
    );
    if available > 0 {
        // What it says is left can really be had.
        assert!(manager.create_context(0, config(available))?.sm_count() >= available);
    }
    if is_partitioned(driver) {
        assert_disjoint(&sets);
    }
    Ok(())
}

fn from_many_threads(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    for _ in 0..times(driver, 10, 1) {
        let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(&device)?;
        let made: Vec<GreenContext> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let manager = &manager;
                    scope.spawn(move || {
                        (0..20)
                            .filter_map(|index| {
                                let id = thread * 20 + index;
                                match manager.create_context(id, config(8)) {
                                    Ok(context) => Some(context),
                                    Err(Error::InsufficientSms { .. }) => None,
                                    Err(error) => panic!("{error}"),
                                }
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        let status = manager.allocation_status();
        assert_eq!(status.contexts.len(), made.len());
        assert!(status.allocated_sms <= status.total_sms);
        if status.mode == PartitionMode::Partitioned {
            let sets = made.iter().map(sm_ids).collect::<Result<Vec<_>>>()?;
            assert_disjoint(&sets);
            assert_eq!(
                status.allocated_sms,
                made.iter().map(GreenContext::sm_count).sum::<u32>()
            );
            assert!(status.available_sms < 8, "{status}");
        }
    }
    Ok(())
}

/// 64 / 32 / 24 / 12 of an H200's 132 SMs, and every SM in use: all at once and, before 13.1, one by one; in
/// the way of this driver and in that of 12.4.
fn unequal(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    if device.properties().multiprocessor_count != 132 || !is_partitioned(driver) {
        return Ok(());
    }
    let sizes = [64, 32, 24, 12];
    let oldest = CudaVersion::new(12, 4);
    for version in [driver.version(), oldest] {
        let structured = version >= CudaVersion::new(13, 1);
        // From 13.1 on the last unit of a split made for any sizes has what a remainder would.
        let ways: &[bool] = if structured { &[true] } else { &[true, false] };
        for all_at_once in ways {
            let manager: SmPartitionManager<u32> = SmPartitionManager::as_of(&device, version)?;
            if *all_at_once {
                manager.create_contexts(&sizes.map(|sms| (sms, config(sms))))?;
            } else {
                sizes
                    .iter()
                    .try_for_each(|sms| manager.create_context(*sms, config(*sms)).map(drop))?;
            }
            let contexts = sizes
                .iter()
                .map(|sms| manager.get_context(*sms))
                .collect::<Result<Vec<_>>>()?;
            let sets = contexts.iter().map(sm_ids).collect::<Result<Vec<_>>>()?;
            assert_disjoint(&sets);
            let status = manager.allocation_status();
            let got: Vec<u32> = status
                .contexts
                .iter()
                .map(|context| context.sm_count)
                .collect();
            assert_eq!(got, sizes);
            assert_eq!(
                (
                    status.allocated_sms,
                    status.available_sms,
                    status.stranded_sms
                ),
                (132, 0, 0),
                "{status}"
            );
            let scaffolds = if version == oldest { 2 } else { 0 };
            assert_eq!(status.scaffold_contexts, scaffolds, "{status}");
            let clusters: Vec<u32> = status
                .contexts
                .iter()
                .map(|context| context.max_cluster_size)
                .collect();
            // The chip has 15 units of 8. The last has what is left over, which keeps clusters of 2
            // (measured); a structured split gives it a unit, and the 24 what is left over.
            let last = if structured { 8 } else { 2 };
            assert_eq!(clusters, [8, 8, 8, last], "{status}");
        }
    }
    let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device)?;
    let too_much = manager.create_contexts(&[(1, config(100)), (2, config(40))]);
    assert!(matches!(
        too_much,
        Err(Error::InsufficientSms {
            asked: 140,
            available: 132,
            ..
        })
    ));
    let twice = manager.create_contexts(&[(1, config(8)), (1, config(8))]);
    assert!(matches!(twice, Err(Error::ContextExists { .. })));
    assert!(manager.create_contexts(&[]).is_err());
    assert!(manager.allocation_status().contexts.is_empty());
    Ok(())
}

fn freed_sms(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let before = sm_ids(&manager.get_context(ContextId::Dream)?)?;
    let size = before.len() as u32;
    manager.destroy_context(ContextId::Dream)?;
    assert!(matches!(
        manager.get_context(ContextId::Dream),
        Err(Error::NoSuchContext { .. })
    ));
    if is_partitioned(driver) {
        let status = manager.allocation_status();
        assert_eq!(status.available_sms, size, "{status}");
        let again = manager.create_context(ContextId::Dream, low(size))?;
        assert_eq!(sm_ids(&again)?, before);
    }
    Ok(())
}

/// Whatever holds a context keeps it, and the refusal changes nothing.
fn in_use(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let refused = || {
        let before = manager.allocation_status();
        assert!(matches!(
            manager.destroy_context(ContextId::Dream),
            Err(Error::ContextInUse { holders: 1, .. })
        ));
        assert_eq!(manager.allocation_status(), before);
    };
    let handle = manager.get_context(ContextId::Dream)?;
    refused();
    let stream = handle.create_stream()?;
    drop(handle);
    refused();
    drop(stream);
    let guard = manager.activate(ContextId::Dream)?;
    refused();
    drop(guard);
    std::thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
        let manager = &manager;
        let thread = scope.spawn(move || {
            manager.set_current(ContextId::Dream).unwrap();
            ready.send(()).unwrap();
            may_go_on.recv().unwrap();
        });
        is_ready.recv().unwrap();
        refused();
        go_on.send(()).unwrap();
        // Unlike the scope's end, this waits for the end of the thread's locals too.
        thread.join().unwrap();
    });
    // The thread has ended, and with it what it had current.
    manager.destroy_context(ContextId::Dream)?;
    assert!(matches!(
        manager.destroy_context(ContextId::Dream),
        Err(Error::NoSuchContext { .. })
    ));
    Ok(())
}

fn streams_outlive(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let contexts = contexts(&manager)?;
    let stream = contexts[1].create_stream()?;
    let event = Event::new(&device)?;
    drop((contexts, manager, device));
    stream.record(&event)?;
    stream.synchronize()?;
    assert!(stream.is_done()? && event.is_done()?);
    assert_eq!(
        sm_ids(stream.context())?.len() as u32,
        stream.context().sm_count()
    );
    Ok(())
}

fn close(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let manager = SmPartitionManager::on(&device)?;
    let context = manager.create_context(ContextId::Training, config(8))?;
    let (context, error) = context.close().unwrap_err().into_parts();
    assert!(matches!(error, Error::ContextInUse { .. }), "{error}");
    drop(manager);
    context.unwrap().close().unwrap();
    Ok(())
}

/// What runs in one partition after an event sees what ran before it in another.
fn events(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let contexts = contexts(&manager)?;
    let streams = contexts
        .iter()
        .map(GreenContext::create_stream)
        .collect::<Result<Vec<_>>>()?;
    let (start, end) = (Event::timed(&device)?, Event::timed(&device)?);
    assert!(start.is_done()?, "an event that was never recorded is done");
    streams[0].record(&start)?;
    streams[1].wait(&start)?;
    streams[1].record(&end)?;
    end.synchronize()?;
    assert!(streams[0].is_done()?);
    assert!(end.elapsed_since(&start)?.as_secs() < 60);
    let untimed = Event::new(&device)?;
    streams[0].record(&untimed)?;
    untimed.synchronize()?;
    assert!(untimed.elapsed_since(&start).is_err(), "it notes no time");
    if is_partitioned(driver) {
        contexts[0].record_event(&untimed)?;
        contexts[1].wait_event(&untimed)?;
        streams[1].synchronize()?;
    }
    Ok(())
}

/// A kernel of a program's own module, in a partition, with a buffer of that partition's pool.
fn kernels(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let module = Module::load_ptx(&device, kernels::PTX)?;
    let kernel = module.kernel(kernels::SM_IDS)?;
    let embedding = manager.get_context(ContextId::Embedding)?;
    let stream = embedding.create_stream()?;
    let counts = embedding.memory()?.allocate(1024 * 4)?;
    counts.fill(0)?;
    let blocks = 4 * embedding.sm_count();
    // SAFETY: the kernel takes a pointer to so many counters, their number and a time; the buffer lives on.
    unsafe {
        stream.launch(
            &kernel,
            &LaunchConfig::linear(blocks, 1024),
            &[&counts.address(), &1024u32, &1000u32],
        )?;
    }
    stream.synchronize()?;
    let mut bytes = vec![0; 1024 * 4];
    counts.copy_to(&mut bytes)?;
    let sum: u32 = bytes
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
        .sum();
    assert_eq!(sum, blocks, "each block counts itself once");
    assert!(matches!(
        module.kernel("no_such_kernel"),
        Err(Error::NoSuchKernel { .. })
    ));
    assert!(matches!(
        Module::load_ptx(&device, "this is no PTX"),
        Err(Error::ImageRefused { .. })
    ));
    assert!(matches!(
        Module::load_ptx(&device, "a\0b"),
        Err(Error::InvalidArgument { .. })
    ));
    Ok(())
}

fn priorities(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let levels = [
        ContextPriority::Low,
        ContextPriority::Medium,
        ContextPriority::High,
        ContextPriority::Critical,
    ];
    let manager = SmPartitionManager::on(&device)?;
    let context = manager.create_context(ContextId::Reserved, config(8))?;
    let numbers = levels
        .iter()
        .map(|level| {
            let priority = context.create_stream_with_priority(*level)?.priority()?;
            assert_eq!(priority, device.stream_priority(*level)?);
            Ok(priority)
        })
        .collect::<Result<Vec<_>>>()?;
    assert!(
        numbers.is_sorted_by(|a, b| a > b),
        "lower numbers come first: {numbers:?}"
    );
    Ok(())
}

fn own_names(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let manager: SmPartitionManager<&'static str> = SmPartitionManager::with_ids(&device)?;
    manager.create_context("serving", config(8))?;
    manager.create_context("indexing", low(8))?;
    assert!(matches!(
        manager.create_context("serving", config(8)),
        Err(Error::ContextExists { .. })
    ));
    let names: Vec<_> = manager
        .allocation_status()
        .contexts
        .iter()
        .map(|context| context.id)
        .collect();
    assert_eq!(names, ["serving", "indexing"]);
    drop(manager);

    // Names of a configuration file.
    let manager = SmPartitionManager::with_ids(&device)?;
    let configured: Vec<String> = ["serving", "indexing"].map(str::to_owned).into();
    let list: Vec<_> = configured
        .iter()
        .map(|name| (name.clone(), low(8)))
        .collect();
    manager.create_contexts(&list)?;
    for name in &configured {
        assert!(manager.get_context(name)?.sm_count() >= 8);
        manager.activate(name.clone())?.close()?;
    }
    manager.set_current("indexing")?;
    manager.unset_current()?;
    let stream = manager.create_stream("serving")?;
    // SAFETY: the stream is live.
    let home = stream.with(|stream| unsafe { manager.stream_home(stream.raw()) })?;
    if is_partitioned(driver) {
        assert_eq!(home, StreamHome::Partition("serving".to_owned()));
    }
    match manager.rebalance_for(configured.first(), HandOff::Strict) {
        Err(Error::Unsupported { .. }) => {}
        result => result?,
    }
    drop(stream);
    let unknown = manager.get_context("training").unwrap_err();
    assert_eq!(unknown.to_string(), "there is no context training");
    manager.destroy_context("serving")?;
    let left = manager.allocation_status().contexts;
    assert_eq!(left.first().map(|context| &*context.id), Some("indexing"));
    Ok(())
}

/// After an illegal access every call says so and names the first; dropping everything neither hangs nor
/// crashes.
fn poisoned(driver: &Driver) -> Result<()> {
    if !driver.is_simulated() {
        return Ok(()); // it would poison the process for every other case
    }
    let simulator = cuda_green::sim::Sim::new(driver.source().trim_start_matches("sim:"))?;
    let driver = Driver::simulated(&simulator)?;
    let (device, manager) = quad(&driver)?;
    let context = manager.get_context(ContextId::Dream)?;
    let buffer = context.memory()?.allocate(4096)?;
    let stream = context.create_stream()?;
    simulator.register_kernel(kernels::BURN, |launch| {
        let _ = launch.write(0xdead_0000, &[1]);
    });
    let kernel = kernel(&device, kernels::BURN)?;
    // SAFETY: the kernel takes an address and a number; that it writes elsewhere is the point.
    let launched = unsafe { stream.launch(&kernel, &LaunchConfig::linear(1, 32), &[&0u64, &1u32]) };
    let fault = launched.and_then(|()| stream.synchronize()).unwrap_err();
    let Error::Poisoned { call: first, .. } = fault else {
        panic!("{fault}")
    };
    for later in [
        context.create_stream().map(drop),
        buffer.copy_from(&[1]),
        Event::new(&device).map(drop),
        manager.activate(ContextId::Embedding).map(drop),
        context.memory()?.allocate(1).map(drop),
    ] {
        match later {
            Err(Error::Poisoned { call, .. }) => assert_eq!(call, first),
            other => panic!("{other:?}"),
        }
    }
    drop((buffer, stream, kernel, context, manager, device));
    Ok(())
}

/// Two managers would give the same SMs to both, and neither would know.
fn one_manager(driver: &Driver) -> Result<()> {
    let (device, first) = quad(driver)?;
    let second = SmPartitionManager::on(&device)?;
    if !is_partitioned(driver) {
        return second.init_quad_partition(); // all stand for the whole device, and say so
    }
    let refused = || {
        for result in [
            second.init_quad_partition(),
            second.create_context(ContextId::Dream, config(8)).map(drop),
        ] {
            assert!(
                matches!(result, Err(Error::PartitionedElsewhere { device: 0 })),
                "{result:?}"
            );
        }
        assert_eq!(second.allocation_status().contexts, []);
    };
    refused();
    // What is planned is not made.
    second.plan(&[PartitionRequest::at_least(8)])?;
    // Contexts that outlive their manager keep their SMs.
    let stream = first.get_context(ContextId::Embedding)?.create_stream()?;
    drop(first);
    refused();
    drop(stream);
    second.init_quad_partition()?;
    for id in ContextId::ALL {
        second.destroy_context(id)?;
    }
    // A manager without contexts claims nothing.
    let third = SmPartitionManager::on(&device)?;
    third.create_context(ContextId::Dream, config(8)).map(drop)
}

//! Every driver call made to fail in turn: a partitioned device in use, rebalanced and taken down, and the
//! explicit model from split to stream; once for each call of a good run, in which that one call fails.
//!
//! Each run must end in success or a typed error, never in a panic, and leave nothing behind. The one
//! exception is what the failed call itself was to give back: a driver that refuses to destroy an object
//! keeps it, and nothing that a caller does about it is known to be safe, so it is left and logged.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::alone;
use cuda_green::{
    CaptureMode, ContextId, Driver, Error, Event, GreenContext, GreenContextConfig, HandOff,
    LaunchConfig, Module, PartitionGraph, RebalanceHint, Result, SmPartitionManager, SmResource,
    SmSplit, StreamOptions, WorkqueueIsolation, WorkqueueScope, kernels,
    sim::{Injection, LiveObjects, Sim},
    sys::CUresult,
};

/// A refusal of each kind that the library might treat in its own way, and one that stays.
const CODES: [CUresult; 8] = [
    CUresult::CUDA_ERROR_OUT_OF_MEMORY,
    CUresult::CUDA_ERROR_INVALID_VALUE,
    CUresult::CUDA_ERROR_NOT_READY,
    CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
    CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
    CUresult::CUDA_ERROR_UNKNOWN,
    CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
    CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
];

fn config(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        sm_count,
        ..GreenContextConfig::default()
    }
}

/// What a program does with a partitioned device, from the first call to the last.
fn use_it_all(simulator: &Sim) -> Result<()> {
    let driver = Driver::simulated(simulator)?;
    let device = driver.device(0)?;
    device.free_memory()?;
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    let module = Module::load_ptx(&device, kernels::PTX)?;
    let kernel = module.kernel(kernels::BURN)?;
    let mut streams = Vec::new();
    let mut buffers = Vec::new();
    for id in ContextId::ALL {
        let context = manager.get_context(id)?;
        let stream = context.create_stream()?;
        let buffer = context.memory()?.allocate(4096)?;
        buffer.fill(0)?;
        buffer.copy_from(&[1; 64])?;
        streams.push(stream);
        buffers.push(buffer);
    }
    let by_name = manager.create_stream(ContextId::Embedding)?;
    let event = Event::timed(&device)?;
    by_name.record(&event)?;
    streams[1].wait(&event)?;
    event.synchronize()?;
    {
        let _outer = manager.activate(ContextId::Dream)?;
        let inner = manager.activate(ContextId::Embedding)?;
        // A second thread beside, which has a sibling where the driver allows no sharing.
        manager
            .get_context(ContextId::Embedding)?
            .provision_threads(2)?;
        let beside = || manager.activate(ContextId::Embedding)?.close();
        std::thread::scope(|scope| scope.spawn(beside).join().unwrap())?;
        inner.close()?;
    }
    // SAFETY: the kernel gets its two arguments, and module and buffers live until the stream was waited for.
    unsafe { streams[0].launch(&kernel, &LaunchConfig::linear(4, 32), &[&0u64, &10u32])? };
    let exec = streams[2]
        .capture(CaptureMode::default(), |capture| {
            capture.fork(&streams[3])?;
            capture.keep(module.clone());
            // SAFETY: the kernel gets its two arguments, and writes nothing.
            unsafe { capture.launch(&kernel, &LaunchConfig::linear(4, 32), &[&0u64, &10u32])? };
            capture.join(&streams[3])
        })?
        .instantiate()?;
    exec.upload(&streams[1])?;
    // SAFETY: the graph keeps its kernel.
    unsafe { exec.launch(&streams[1])? };
    let kept = kernel.clone();
    let graph = PartitionGraph::new(move |capture| {
        // SAFETY: as above.
        unsafe { capture.launch(&kept, &LaunchConfig::linear(4, 32), &[&0u64, &10u32]) }
    });
    if driver.version() >= cuda_green::CudaVersion::new(12, 5) {
        manager.provision_rebalance()?;
        for (hint, hand_off) in [
            (RebalanceHint::EmbeddingHeavy, HandOff::default()),
            (RebalanceHint::Balanced, HandOff::default()),
        ] {
            manager.rebalance_with(hint, hand_off)?;
            // SAFETY: the graph keeps its kernel.
            unsafe { graph.launch(&by_name)? };
            by_name.synchronize()?;
        }
        // What is retired is given up, and made anew within a limit.
        manager.release_retired()?;
        manager.set_context_limit(Some(9));
        manager.rebalance(RebalanceHint::TrainingActive)?;
    }
    let mut bytes = [0; 64];
    buffers[0].copy_to(&mut bytes)?;
    assert_eq!(bytes, [1; 64]);
    for stream in &streams {
        stream.synchronize()?;
    }
    drop(streams);
    drop((exec, graph));
    drop((by_name, buffers, event, kernel, module));
    for id in ContextId::ALL {
        manager.destroy_context(id)?;
    }
    let nested: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device)?;
    if !device.capabilities().merge && device.supports_required_features() {
        // Splits within splits, all at once and one by one.
        let sizes = [64, 32, 24, 12].map(|sms| (sms, config(sms)));
        nested.create_contexts(&sizes)?;
        for (id, _) in sizes {
            nested.destroy_context(id)?;
        }
        for (id, config) in sizes {
            drop(nested.create_context(id, config)?);
        }
        nested.destroy_context(12)?;
        nested.destroy_context(24)?;
        drop(nested.create_context(12, config(36))?);
    }
    Ok(())
}

/// Sizes that units do not come to on an H200, and units that are cut to size from 13.1 on.
fn use_odd_sizes(simulator: &Sim) -> Result<()> {
    let device = Driver::simulated(simulator)?.device(0)?;
    let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device)?;
    let sizes = [62, 30, 40].map(|sms| (sms, config(sms)));
    manager.create_contexts(&sizes)?;
    for (id, _) in sizes {
        manager.destroy_context(id)?;
    }
    for sms in [22, 18, 6] {
        drop(manager.create_context(sms, config(sms))?);
    }
    manager.destroy_context(18)?;
    drop(manager.create_context(30, config(30))?);
    Ok(())
}

/// Splits, contexts of several resources, one within another, workqueues, streams.
fn use_resources(simulator: &Sim) -> Result<()> {
    let driver = Driver::simulated(simulator)?;
    let device = driver.device(0)?;
    let capabilities = *device.capabilities();
    let config = GreenContextConfig::default();
    let all = device.sm_resource()?;
    let split = if capabilities.merge {
        SmSplit::groups([32, 16, 8])
    } else {
        SmSplit::equal(3, 16)
    };
    all.dry_run(&split)?;
    let parts = all.split(&split)?;
    let workqueue = if capabilities.workqueues {
        let default = device.workqueue()?;
        Some(default.with_scope(WorkqueueScope::GreenContextBalanced)?)
    } else {
        None
    };
    let first = GreenContext::from_resources(&parts.groups[..1], workqueue.as_ref(), config)?;
    let second = if capabilities.merge {
        GreenContext::from_resources(&parts.groups[1..], None, config)?
    } else {
        GreenContext::from_resources(&parts.groups[1..2], None, config)?
    };
    let own = first.sm_resource()?.split(&SmSplit::equal(1, 8))?;
    let inner = GreenContext::from_resources(&own.groups, None, config)?;
    if capabilities.workqueues {
        let shared = first.existing_workqueue()?;
        let rest: Vec<SmResource> = parts.remainder.into_iter().collect();
        let beside = GreenContext::from_resources(&rest, Some(&shared), config)?;
        assert_eq!(beside.workqueue()?.scope(), first.workqueue()?.scope());
    }
    let streams = [&first, &second, &inner]
        .into_iter()
        .map(|context| context.create_stream_with(&StreamOptions::default().raw_priority(-1)))
        .collect::<Result<Vec<_>>>()?;
    for stream in &streams {
        assert_eq!(
            stream.sm_resource()?.sm_count(),
            stream.context().sm_count()
        );
        assert_eq!(stream.priority()?, -1);
    }
    assert_eq!(first.observed_sm_ids()?.len() as u32, first.sm_count());
    drop(streams);
    for context in [inner, second, first] {
        context.close()?;
    }
    Ok(())
}

/// What a program does from the first call to the last.
type Program = fn(&Sim) -> Result<()>;

/// The kind of object that a call gives back, and keeps when it fails.
fn gives_back(entry_point: &str) -> Option<&'static str> {
    Some(match entry_point {
        "cuDevicePrimaryCtxRelease_v2" => "primary retain",
        "cuGreenCtxDestroy" => "green context",
        "cuStreamDestroy_v2" => "stream",
        "cuEventDestroy_v2" => "event",
        "cuModuleUnload" => "module",
        "cuGraphDestroy" => "graph",
        "cuGraphExecDestroy" => "instantiated graph",
        "cuMemFree_v2" | "cuMemFreeAsync" => "device allocation",
        "cuMemPoolDestroy" => "pool",
        "cuMemFreeHost" => "pinned host allocation",
        _ => return None,
    })
}

/// Whether what is left is the one object that the failed call was to give back. Where a context was
/// destroyed after it, it was taken along.
fn is_what_the_call_keeps(live: &LiveObjects, entry_point: &str) -> bool {
    let kept = gives_back(entry_point);
    live.objects.len() == 1
        && kept.is_some_and(|kept| [kept, "abandoned object"].contains(&live.objects[0].kind))
}

/// One run in which the nth call fails. Gives what went wrong with the run, if anything did.
fn run_failing(
    program: Program,
    profile: &str,
    nth: u64,
    entry_point: &str,
    code: CUresult,
) -> Option<String> {
    let simulator = Sim::new(profile).unwrap();
    simulator.inject(Injection::fail("*", code).unwrap().at(nth));
    let answer = match catch_unwind(AssertUnwindSafe(|| program(&simulator))) {
        Ok(answer) => answer,
        Err(_) => return Some("it panicked".to_owned()),
    };
    if code.is_sticky() {
        // A poisoned driver destroys nothing any more: its process has to end.
        return match answer {
            Err(Error::Poisoned { .. }) | Ok(()) => None,
            // The first call asks for the version, when there is no `Driver` yet to be poisoned.
            Err(_) if nth == 1 => None,
            Err(other) => Some(format!("not said to be poisoned: {other}")),
        };
    }
    let live = simulator.live_objects();
    // What failed once does not spoil the next try.
    if let Err(error) = program(&simulator) {
        return Some(format!("the next try fails: {error}"));
    }
    let after = simulator.live_objects();
    if after != live {
        return Some(format!("the next try leaves more behind: {after}"));
    }
    if live.is_empty() || is_what_the_call_keeps(&live, entry_point) {
        return None;
    }
    Some(format!("left behind: {live}; the answer was {answer:?}"))
}

fn each_call_fails_once(program: Program, profile: &str, codes: &[CUresult]) {
    let _alone = alone();
    let simulator = Sim::new(profile).unwrap();
    simulator.start_trace();
    program(&simulator).unwrap();
    let trace = simulator.take_trace();
    simulator.assert_no_leaks();
    drop(simulator);
    let mut wrong = BTreeMap::new();
    for (call, nth) in trace.iter().zip(1..) {
        for code in codes {
            if let Some(what) = run_failing(program, profile, nth, call.entry_point, *code) {
                wrong
                    .entry((call.entry_point, what))
                    .or_insert_with(Vec::new)
                    .push((nth, code.0));
            }
        }
    }
    let count = trace.len();
    assert!(wrong.is_empty(), "{profile}, {count} calls: {wrong:#?}");
}

#[test]
fn merging() {
    each_call_fails_once(use_it_all, "h200@13.0", &CODES);
}

#[test]
fn merging_without_fields() {
    each_call_fails_once(use_it_all, "h200@12.5", &CODES[..1]);
}

#[test]
fn equal_groups() {
    each_call_fails_once(use_it_all, "h200@12.4", &CODES[..1]);
}

#[test]
fn structured() {
    each_call_fails_once(use_it_all, "rtx5090@13.1", &CODES[..1]);
}

#[test]
fn newest() {
    each_call_fails_once(use_it_all, "rtx5090@newest", &CODES[..1]);
}

#[test]
fn odd_sizes() {
    for profile in ["h200@13.0", "h200@13.1"] {
        each_call_fails_once(use_odd_sizes, profile, &CODES);
    }
}

#[test]
fn single_context() {
    each_call_fails_once(use_it_all, "t4@12.2", &CODES[..1]);
}

#[test]
fn resources_of_merged_units() {
    each_call_fails_once(use_resources, "h200@13.0", &CODES[..1]);
}

#[test]
fn resources_of_equal_groups() {
    each_call_fails_once(use_resources, "h200@12.4", &CODES[..1]);
}

#[test]
fn resources_of_a_structured_split() {
    each_call_fails_once(use_resources, "rtx5090@13.1", &CODES);
}

/// A driver that takes no balanced workqueue: the contexts share, and say why.
#[test]
fn a_workqueue_that_is_refused() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.1").unwrap();
    {
        let driver = Driver::simulated(&simulator).unwrap();
        let refused = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        let manager = SmPartitionManager::on(&driver.device(0).unwrap()).unwrap();
        simulator.inject(
            Injection::fail("cuDevResourceGenerateDesc", refused)
                .unwrap()
                .at(1),
        );
        manager.init_quad_partition().unwrap();
        let isolation = |id| {
            let context = manager.get_context(id).unwrap();
            context.workqueue_isolation().clone()
        };
        match isolation(ContextId::Embedding) {
            WorkqueueIsolation::Shared { reason } => {
                assert!(
                    reason.contains("INVALID_RESOURCE_CONFIGURATION"),
                    "{reason}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(isolation(ContextId::Dream), WorkqueueIsolation::Balanced);
        let status = manager.allocation_status();
        assert_eq!(status.allocated_sms, status.total_sms);
        // What is no refusal of the workqueue is not papered over.
        let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        drop(manager);
        let device = driver.device(0).unwrap();
        let other = SmPartitionManager::on(&device).unwrap();
        simulator.inject(
            Injection::fail("cuDevResourceGenerateDesc", full)
                .unwrap()
                .at(1),
        );
        assert!(matches!(
            other.init_quad_partition(),
            Err(Error::Driver { code, .. }) if code == full
        ));
    }
    simulator.assert_injections_fired();
    simulator.assert_no_leaks();
}

/// A module whose own context could not be made current takes nobody else's away as it ends.
#[test]
fn the_end_of_a_module_pops_only_what_it_pushed() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let all = [device.sm_resource().unwrap()];
    let context = GreenContext::from_resources(&all, None, config(0)).unwrap();
    let module = Module::load_ptx(&device, kernels::PTX).unwrap();
    let guard = context.activate().unwrap();
    simulator
        .fail("cuCtxPushCurrent", 1, CUresult::CUDA_ERROR_OUT_OF_MEMORY)
        .unwrap();
    drop(module);
    simulator.assert_injections_fired();
    guard.close().unwrap();
}

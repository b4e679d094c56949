//! The quad partition: sizes, disjointness, and the same result every time.

use std::collections::BTreeSet;

use cuda_green::{
    ContextId, ContextPriority, Driver, Error, PartitionMode, Result, SmPartitionManager, kernels,
    sys,
};

use crate::{
    Case,
    support::{
        assert_disjoint, contexts, is_partitioned, kernel, largest_cluster, quad, sm_ids, times,
    },
};

pub const CASES: &[Case] = &[
    ("quad/has_the_expected_sizes", expected_sizes),
    ("quad/runs_on_disjoint_sms", disjoint),
    ("quad/is_configured_as_asked", configured),
    ("quad/the_same_a_thousand_times", again_and_again),
    ("quad/one_of_many_threads_wins", many_threads),
    ("quad/the_driver_agrees_on_sizes", driver_agrees),
    ("quad/verification_sees_what_is_so", verification),
    ("quad/clusters_run_as_promised", clusters),
];

/// Sizes and stranded SMs by device and version, written by hand.
fn expected(driver: &Driver) -> Option<([u32; 4], u32)> {
    Some(match driver.source() {
        "sim:t4@11.4" => ([40; 4], 0),
        "sim:a100@12.4" => ([26, 26, 26, 30], 0),
        "sim:rtx5090@12.8" => ([40, 40, 40, 50], 0),
        "sim:rtx5090@13.1" => ([42, 42, 42, 44], 0),
        "sim:quad680@13.1" => ([170; 4], 0),
        source if source.starts_with("sim:h200@") => ([32, 32, 32, 36], 0),
        // A real device: H200, driver 580.
        _ if driver.device(0).ok()?.properties().multiprocessor_count == 132 => {
            ([32, 32, 32, 36], 0)
        }
        _ => return None,
    })
}

fn expected_sizes(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let status = manager.allocation_status();
    let sizes: Vec<u32> = status
        .contexts
        .iter()
        .map(|context| context.sm_count)
        .collect();
    if let Some((expected, stranded)) = expected(driver) {
        assert_eq!(
            (sizes.as_slice(), status.stranded_sms),
            (expected.as_slice(), stranded)
        );
    }
    if status.mode == PartitionMode::Partitioned {
        assert_eq!(status.allocated_sms, sizes.iter().sum::<u32>());
        assert_eq!(
            status.allocated_sms + status.available_sms + status.stranded_sms,
            status.total_sms
        );
        assert_eq!(status.stranded_reason.is_some(), status.stranded_sms > 0);
    }
    let ids: Vec<ContextId> = status.contexts.iter().map(|context| context.id).collect();
    assert_eq!(ids, ContextId::ALL);
    Ok(())
}

fn disjoint(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let sets = contexts(&manager)?
        .iter()
        .map(sm_ids)
        .collect::<Result<Vec<BTreeSet<u32>>>>()?;
    if is_partitioned(driver) {
        assert_disjoint(&sets);
        let union: usize = sets.iter().map(BTreeSet::len).sum();
        assert_eq!(union as u32, manager.allocation_status().allocated_sms);
    } else {
        let all = device.properties().multiprocessor_count as usize;
        assert!(sets.iter().all(|set| set.len() == all));
    }
    Ok(())
}

fn configured(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let expected = [
        (ContextPriority::Critical, false),
        (ContextPriority::Low, true),
        (ContextPriority::Medium, true),
        (ContextPriority::Medium, true),
    ];
    for (context, expected) in manager.allocation_status().contexts.iter().zip(expected) {
        assert_eq!(
            (context.priority, context.preemptible),
            expected,
            "{:?}",
            context.id
        );
        assert_eq!(context.memory_limit_bytes, 8 << 30);
    }
    let mode = manager.allocation_status().mode;
    assert_eq!(mode == PartitionMode::Partitioned, is_partitioned(driver));
    if let PartitionMode::SingleContext { reason } = mode {
        assert!(reason.contains("12.4"), "{reason}");
    }
    let priority = |id| manager.get_context(id)?.create_stream()?.priority();
    assert!(priority(ContextId::Embedding)? < priority(ContextId::Training)?);
    assert!(priority(ContextId::Training)? < priority(ContextId::Dream)?);
    Ok(())
}

fn again_and_again(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let manager = SmPartitionManager::on(&device)?;
    let mut first = None;
    for _ in 0..times(driver, 1000, 25) {
        manager.init_quad_partition()?;
        let status = manager.allocation_status();
        assert_eq!(*first.get_or_insert_with(|| status.clone()), status);
        for id in ContextId::ALL {
            manager.destroy_context(id)?;
        }
        assert_eq!(manager.allocation_status().allocated_sms, 0);
        if let Some(simulator) = driver.simulator() {
            assert_eq!(simulator.live_objects().green_contexts, 0);
        }
    }
    Ok(())
}

fn many_threads(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    for _ in 0..times(driver, 20, 2) {
        let manager = SmPartitionManager::on(&device)?;
        let wins = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| manager.init_quad_partition()))
                .collect();
            threads
                .into_iter()
                .map(|thread| match thread.join().unwrap() {
                    Ok(()) => 1,
                    Err(Error::AlreadyPartitioned { contexts: 4 }) => 0,
                    Err(error) => panic!("{error}"),
                })
                .sum::<u32>()
        });
        assert_eq!(wins, 1);
        // And all threads use all contexts at once, each on the right SMs.
        let sets = contexts(&manager)?
            .iter()
            .map(sm_ids)
            .collect::<Result<Vec<_>>>()?;
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (manager, sets) = (&manager, &sets);
                scope.spawn(move || {
                    let id = ContextId::ALL[thread % 4];
                    let _guard = manager.activate(id).unwrap();
                    assert_eq!(
                        sm_ids(&manager.get_context(id).unwrap()).unwrap(),
                        sets[thread % 4]
                    );
                });
            }
        });
    }
    Ok(())
}

/// The driver's own account of a context, and of the whole device beside it.
fn driver_agrees(driver: &Driver) -> Result<()> {
    if !is_partitioned(driver) {
        return Ok(());
    }
    let (_, manager) = quad(driver)?;
    for context in contexts(&manager)? {
        let mut resource = sys::CUdevResource::default();
        let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        // SAFETY: the context is live, and the resource zeroed and valid.
        let result = unsafe {
            driver
                .api()
                .cuGreenCtxGetDevResource(context.raw(), &mut resource, kind)
        };
        result.unwrap().ok().unwrap();
        // SAFETY: the driver filled in an SM resource.
        let sms = unsafe { resource.__bindgen_anon_1.sm.smCount };
        assert_eq!(sms, context.sm_count());
    }
    Ok(())
}

/// The largest cluster of each context is what the plan said, by the driver's occupancy calculation.
fn clusters(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    if device.properties().compute_capability.0 < 9 {
        assert!(
            contexts(&manager)?
                .iter()
                .all(|context| context.max_cluster_size() == 1)
        );
        return Ok(());
    }
    let kernel = kernel(&device, kernels::BURN)?;
    for context in contexts(&manager)? {
        assert_eq!(
            largest_cluster(&kernel, &context)?,
            context.max_cluster_size(),
            "{context:?}"
        );
    }
    Ok(())
}

fn verification(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let found = manager.verify()?;
    assert_eq!(found.is_isolated(), is_partitioned(driver), "{found}");
    assert_eq!(
        found.primary.len() as u32,
        device.properties().multiprocessor_count
    );
    let ids: Vec<ContextId> = found.contexts.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ContextId::ALL);
    if is_partitioned(driver) {
        assert!(
            found
                .contexts
                .iter()
                .all(|(_, sms)| sms.is_subset(&found.primary))
        );
    } else {
        assert_eq!(found.overlaps.len(), 6, "every pair shares everything");
    }
    Ok(())
}

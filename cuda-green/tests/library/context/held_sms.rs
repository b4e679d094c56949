//! SMs that are given to nobody else while something can run on them, or become a context over them: a thread
//! whose guard was forgotten, a resource that outlives its name, contexts that outlive their manager.

use std::{collections::BTreeSet, time::Duration};

use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, Driver, Error, GreenContext, GreenContextConfig,
    LaunchConfig, Module, RebalanceHint, SmPartitionManager, SmResource, SmSplit, kernels,
    planner::PartitionRequest,
    sim::{BlockCost, Injection, Sim},
    sys::{CUresult, CUstream, CUstream_flags},
};

const PROFILES: [&str; 4] = ["h200@12.4", "a100@12.8", "h200@13.0", "rtx5090@13.1"];

fn open(profile: &str) -> (Sim, CudaDevice) {
    let simulator = Sim::new(profile).unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    (simulator, device)
}

fn quad(device: &CudaDevice) -> SmPartitionManager {
    let manager = SmPartitionManager::on(device).unwrap();
    manager.init_quad_partition().unwrap();
    manager
}

fn config(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        sm_count,
        ..GreenContextConfig::default()
    }
}

fn over(resource: &SmResource) -> GreenContext {
    let one = std::slice::from_ref(resource);
    GreenContext::from_resources(one, None, GreenContextConfig::default()).unwrap()
}

fn sms(context: &GreenContext) -> BTreeSet<u32> {
    let ids: BTreeSet<u32> = context.observed_sm_ids().unwrap().into_iter().collect();
    assert_eq!(ids.len() as u32, context.sm_count());
    ids
}

/// The SMs of all contexts of a manager, and of others; no SM is of two.
fn assert_disjoint(manager: &SmPartitionManager, others: &[&GreenContext]) {
    let ids: Vec<ContextId> = manager
        .allocation_status()
        .contexts
        .iter()
        .map(|context| context.id)
        .collect();
    let mut seen = BTreeSet::new();
    let own = ids.iter().map(|id| sms(&manager.get_context(*id).unwrap()));
    for sms in own.chain(others.iter().map(|context| sms(context))) {
        assert!(seen.is_disjoint(&sms), "{:?}", &seen & &sms);
        seen.extend(sms);
    }
}

fn refused(device: &CudaDevice) {
    let other = SmPartitionManager::on(device).unwrap();
    for result in [
        other.init_quad_partition(),
        other.create_context(ContextId::Dream, config(2)).map(drop),
    ] {
        let is_refused = matches!(result, Err(Error::PartitionedElsewhere { .. }));
        assert!(is_refused, "{result:?}");
    }
}

/// Its thread has the context current for good, so the context, its SMs and its device stay.
#[test]
fn a_forgotten_guard_keeps_its_sms_past_the_manager() {
    for profile in PROFILES {
        let (simulator, device) = open(profile);
        let thread = std::thread::spawn(move || {
            let manager = quad(&device);
            let context = manager.get_context(ContextId::Dream).unwrap();
            std::mem::forget(context.activate().unwrap());
            drop((context, manager));
            refused(&device);
            drop(device);
        });
        thread.join().unwrap();
        let live = simulator.live_objects();
        assert_eq!(
            (live.green_contexts, live.primary_retains),
            (1, 1),
            "{profile}"
        );
    }
}

/// Below it, a guard does not make current what was before, and says so.
#[test]
fn a_guard_below_a_forgotten_one_is_told() {
    let (_simulator, device) = open("h200@13.0");
    let thread = std::thread::spawn(move || {
        let manager = quad(&device);
        let below = manager.activate(ContextId::Dream).unwrap();
        std::mem::forget(manager.activate(ContextId::Training).unwrap());
        let closed = below.close();
        assert!(matches!(closed, Err(Error::GuardNotOnTop)), "{closed:?}");
        // One above it ends as it should.
        manager
            .activate(ContextId::Embedding)
            .unwrap()
            .close()
            .unwrap();
    });
    thread.join().unwrap();
}

/// A retired context with a forgotten guard is in use: it is neither given up nor an error.
#[test]
fn a_forgotten_guard_keeps_a_retired_context() {
    let (_simulator, device) = open("h200@13.0");
    let thread = std::thread::spawn(move || {
        let manager = quad(&device);
        let context = manager.get_context(ContextId::Dream).unwrap();
        std::mem::forget(context.activate().unwrap());
        drop(context);
        manager.rebalance(RebalanceHint::TrainingActive).unwrap();
        assert_eq!(manager.release_retired().unwrap(), 2); // of Training and Reserved
        assert_eq!(manager.allocation_status().green_contexts, 5);
    });
    thread.join().unwrap();
}

/// A resource of a managed context, parts of it and contexts over those: each holds the SMs by itself.
#[test]
fn a_resource_keeps_the_sms_of_its_name() {
    for profile in PROFILES {
        let (simulator, device) = open(profile);
        let manager = quad(&device);
        let resource = {
            let dream = manager.get_context(ContextId::Dream).unwrap();
            dream.sm_resource().unwrap()
        };
        manager.destroy_context(ContextId::Dream).unwrap();
        let held = resource.sm_count();
        let is_held = || {
            let status = manager.allocation_status();
            assert_eq!(
                (status.held_sms, status.available_sms),
                (held, 0),
                "{profile}"
            );
            assert!(status.to_string().contains(&format!(", {held} held")));
            let refused = manager.create_context(ContextId::Dream, config(8));
            assert!(matches!(refused, Err(Error::InsufficientSms { .. })));
        };
        is_held();
        let part = resource
            .split(&SmSplit::equal(1, 8))
            .unwrap()
            .groups
            .remove(0);
        drop(resource);
        is_held();
        let derived = over(&part);
        drop(part);
        is_held();
        let own = derived.sm_resource().unwrap();
        assert_disjoint(&manager, &[&derived]);
        derived.close().unwrap();
        is_held();
        drop(own);
        assert_eq!(manager.allocation_status().available_sms, held, "{profile}");
        let again = manager
            .create_context(ContextId::Dream, config(held))
            .unwrap();
        assert_eq!(again.sm_count(), held);

        // And past the manager, too.
        let resource = again.sm_resource().unwrap();
        drop((again, manager));
        refused(&device);
        let derived = over(&resource);
        drop(resource);
        refused(&device);
        drop(derived);
        drop(quad(&device));
        drop(device);
        simulator.assert_no_leaks();
    }
}

/// Below 12.5 the SMs of a partition may be within a context that holds a split together; that stays, too.
#[test]
fn scaffolds_live_as_long_as_what_is_within_them() {
    let (simulator, device) = open("h200@12.4");
    let manager: SmPartitionManager<u32> = SmPartitionManager::with_ids(&device).unwrap();
    let sizes = [64, 32, 24, 12].map(|sms| (sms, config(sms)));
    manager.create_contexts(&sizes).unwrap();
    let smallest = manager.get_context(12).unwrap();
    let resource = manager.get_context(24).unwrap().sm_resource().unwrap();
    drop(manager);
    assert_eq!(simulator.live_objects().green_contexts, 1 + 2);
    assert_eq!(sms(&smallest).len(), 12);
    drop(smallest);
    assert_eq!(simulator.live_objects().green_contexts, 2);
    refused(&device);
    drop(resource);
    assert_eq!(simulator.live_objects().green_contexts, 0);
    drop(quad(&device));
}

/// What could not be waited for may run still, so its SMs are nobody else's.
#[test]
fn what_cannot_be_waited_for_is_not_destroyed() {
    for profile in PROFILES {
        let (simulator, device) = open(profile);
        let manager = quad(&device);
        let sm_count = manager.get_context(ContextId::Dream).unwrap().sm_count();
        let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        simulator.inject(Injection::fail("cuEventSynchronize", full).unwrap());
        let refused = manager.destroy_context(ContextId::Dream).unwrap_err();
        assert!(matches!(refused, Error::Driver { code, .. } if code == full));
        simulator.clear_injections();
        let status = manager.allocation_status();
        assert_eq!((status.held_sms, status.contexts.len()), (sm_count, 3));
        assert_eq!(simulator.live_objects().green_contexts, 4);
    }
}

/// A context whose end is refused for want of a wait comes back as it was.
#[test]
fn a_context_that_cannot_be_waited_for_comes_back() {
    let (simulator, device) = open("h200@13.0");
    let context = over(&device.sm_resource().unwrap());
    let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    simulator.inject(
        Injection::fail("cuGreenCtxRecordEvent", full)
            .unwrap()
            .at(1),
    );
    let (context, error) = context.close().unwrap_err().into_parts();
    assert!(matches!(error, Error::Driver { code, .. } if code == full));
    let context = context.unwrap();
    context.create_stream().unwrap();
    context.close().unwrap();
}

/// A context ends once its work has, also that in streams which foreign code made and kept.
#[test]
fn the_end_of_a_name_waits_for_its_work() {
    const WORK: Duration = Duration::from_millis(5);
    for profile in ["h200@12.5", "h200@13.0", "rtx5090@13.1"] {
        let (simulator, device) = open(profile);
        simulator.register_kernel(kernels::BURN, |_| {});
        simulator.register_kernel_cost(kernels::BURN, |_| BlockCost::busy(WORK));
        let manager = quad(&device);
        let module = Module::load_ptx(&device, kernels::PTX).unwrap();
        let kernel = module.kernel(kernels::BURN).unwrap();
        let api = device.driver().api();
        let mut raw: CUstream = std::ptr::null_mut();
        {
            let dream = manager.get_context(ContextId::Dream).unwrap();
            let flags = CUstream_flags::CU_STREAM_NON_BLOCKING.0;
            // SAFETY: the output is valid, and the context live.
            let made = unsafe { api.cuGreenCtxStreamCreate(&mut raw, dream.raw(), flags, 0) };
            made.unwrap().ok().unwrap();
        }
        let shape = LaunchConfig::linear(1, 32);
        let nothing = 0u64;
        let mut arguments = [(&raw const nothing).cast_mut().cast(); 2];
        // SAFETY: the stream and the function are live; as a simulated kernel, it looks at no argument.
        let launched = unsafe {
            api.cuLaunchKernel(
                kernel.raw(),
                shape.grid[0],
                1,
                1,
                shape.block[0],
                1,
                1,
                0,
                raw,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        launched.unwrap().ok().unwrap();
        let before = simulator.now();
        manager.destroy_context(ContextId::Dream).unwrap();
        assert!(simulator.now() >= before + WORK, "{profile}");
        // SAFETY: it was made above; the driver may say that its context is gone.
        let _ = unsafe { api.cuStreamDestroy_v2(raw) };
    }
}

/// What a living name had lent to one that is gone is its own: nobody is told of it, and nobody gets it.
#[test]
fn what_is_lent_is_not_told_as_available() {
    for profile in ["h200@12.5", "a100@12.8", "h200@13.0", "rtx5090@13.1"] {
        let (_simulator, device) = open(profile);
        let manager = quad(&device);
        manager.rebalance(RebalanceHint::EmbeddingHeavy).unwrap();
        manager.destroy_context(ContextId::Embedding).unwrap();
        let status = manager.allocation_status();
        let rest = manager
            .create_partition(
                ContextId::Embedding,
                PartitionRequest::rest(),
                ContextPolicy::default(),
            )
            .unwrap();
        assert_eq!(rest.sm_count(), status.available_sms, "{profile}: {status}");
        assert!(status.held_sms > 0);
        drop(rest);
        manager.rebalance(RebalanceHint::Balanced).unwrap();
        assert_disjoint(&manager, &[]);
        let status = manager.allocation_status();
        assert_eq!((status.held_sms, status.available_sms), (0, 0), "{status}");
    }
}

/// A context that takes another's place is for as many threads, and each is a green context more.
#[test]
fn siblings_that_a_rebalance_would_make_count_against_the_limit() {
    let (simulator, device) = open("h200@13.0");
    let manager = quad(&device);
    let training = manager.get_context(ContextId::Training).unwrap();
    assert_eq!(training.provision_threads(3).unwrap(), 3);
    drop(training);
    let live = || simulator.live_objects().green_contexts;
    assert_eq!(live(), 6);
    // Three for Training, and one each for Dream and Reserved.
    manager.set_context_limit(Some(10));
    let refused = manager
        .rebalance(RebalanceHint::TrainingActive)
        .unwrap_err();
    assert!(
        matches!(
            refused,
            Error::TooManyContexts {
                limit: 10,
                kept: 6,
                missing: 5
            }
        ),
        "{refused}"
    );
    assert_eq!(live(), 6);
    manager.set_context_limit(Some(11));
    manager.rebalance(RebalanceHint::TrainingActive).unwrap();
    assert_eq!(live(), 11);
}

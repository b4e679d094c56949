//! What is current to a thread without a guard, beside guards and other devices, and contexts that are current for good.

use cuda_green::{
    ContextId, Driver, Error, GreenContext, GreenContextConfig, RebalanceHint, SmPartitionManager,
    sim::Sim,
};

fn managers(profile: &str) -> (Sim, Driver, Vec<SmPartitionManager>) {
    let simulator = Sim::new(profile).unwrap();
    let driver = Driver::simulated(&simulator).unwrap();
    let of = |ordinal| {
        let manager = SmPartitionManager::on(&driver.device(ordinal).unwrap()).unwrap();
        manager.init_quad_partition().unwrap();
        manager
    };
    let managers = (0..driver.device_count().unwrap()).map(of).collect();
    (simulator, driver, managers)
}

fn current(driver: &Driver) -> cuda_green::sys::CUcontext {
    let mut current = std::ptr::null_mut();
    // SAFETY: the output is valid.
    let result = unsafe { driver.api().cuCtxGetCurrent(&mut current) };
    result.unwrap().ok().unwrap();
    current
}

/// A guard decides what is current until it ends.
#[test]
fn inside_a_guard_nothing_else_is_made_current() {
    let (_simulator, driver, managers) = managers("h200@13.0");
    let manager = &managers[0];
    manager.set_current(ContextId::Training).unwrap();
    let before = current(&driver);
    let guard = manager.activate(ContextId::Dream).unwrap();
    for refused in [
        manager.set_current(ContextId::Embedding),
        manager.unset_current(),
    ] {
        assert!(matches!(refused, Err(Error::GuardActive)), "{refused:?}");
        assert_eq!(current(&driver), guard.raw_context());
    }
    guard.close().unwrap();
    assert_eq!(current(&driver), before);
    manager.unset_current().unwrap();
    assert!(current(&driver).is_null());
}

#[test]
fn what_is_current_of_another_device_stays() {
    let (_simulator, driver, managers) = managers("2xh200@13.0");
    managers[1].set_current(ContextId::Dream).unwrap();
    let before = current(&driver);
    assert!(!before.is_null());
    managers[0].unset_current().unwrap();
    assert_eq!(current(&driver), before);
    managers[1].unset_current().unwrap();
    assert!(current(&driver).is_null());
}

/// It comes back with the error, as it was.
#[test]
fn a_context_whose_guard_was_forgotten_is_not_closed() {
    let (_simulator, driver, managers) = managers("h200@13.0");
    drop(managers);
    let all = driver.device(0).unwrap().sm_resource().unwrap();
    let config = GreenContextConfig::default();
    let context = GreenContext::from_resources(&[all], None, config).unwrap();
    std::mem::forget(context.activate().unwrap());
    let (context, error) = context.close().unwrap_err().into_parts();
    assert!(
        matches!(error, Error::ContextInUse { holders: 1, .. }),
        "{error}"
    );
    context.unwrap().create_stream().unwrap();
}

/// Destroyed, it would stay current as a dangling handle.
#[test]
fn a_context_that_ends_while_it_is_current_leaves_none() {
    let (_simulator, driver, managers) = managers("h200@13.0");
    drop(managers);
    let all = driver.device(0).unwrap().sm_resource().unwrap();
    let config = GreenContextConfig::default();
    let context = GreenContext::from_resources(&[all], None, config).unwrap();
    // SAFETY: the context is live.
    let set = unsafe { driver.api().cuCtxSetCurrent(context.raw_context().unwrap()) };
    set.unwrap().ok().unwrap();
    drop(context);
    assert!(current(&driver).is_null());
}

/// A wait that fails once is tried again at a context's end, as nobody else can.
#[test]
fn a_context_that_is_dropped_is_waited_for_twice() {
    let (simulator, driver, managers) = managers("h200@13.0");
    drop(managers);
    let all = driver.device(0).unwrap().sm_resource().unwrap();
    let config = GreenContextConfig::default();
    let context = GreenContext::from_resources(&[all], None, config).unwrap();
    let code = cuda_green::CUresult::CUDA_ERROR_UNKNOWN;
    simulator.fail("cuEventSynchronize", 1, code).unwrap();
    drop(context);
    simulator.assert_injections_fired();
    assert_eq!(simulator.live_objects().green_contexts, 0);
}

/// The limit of a name's memory holds over all contexts that it has had.
#[test]
fn contexts_of_one_name_share_its_memory() {
    let (_simulator, _driver, managers) = managers("h200@13.0");
    let used = || {
        let context = managers[0].get_context(ContextId::Training).unwrap();
        context.memory_used()
    };
    let training = managers[0].get_context(ContextId::Training).unwrap();
    let buffer = training.memory().unwrap().allocate(1 << 20).unwrap();
    managers[0]
        .rebalance(RebalanceHint::TrainingActive)
        .unwrap();
    assert_eq!(used(), 1 << 20);
    drop(buffer);
    assert_eq!(used(), 0);
}

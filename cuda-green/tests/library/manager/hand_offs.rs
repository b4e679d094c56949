//! What a hand-off waits for, in virtual time, and which contexts make room for others.

use std::time::Duration;

use cuda_green::{
    ContextId, CudaDevice, Driver, Event, GreenContextConfig, HandOff, Kernel, LaunchConfig,
    Module, RebalanceHint, SmPartitionManager, Stream, kernels,
    sim::{BlockCost, Sim},
};

fn quad() -> (Sim, CudaDevice, SmPartitionManager) {
    let simulator = Sim::new("h200@13.0").unwrap();
    simulator.register_kernel(kernels::BURN, |_| {});
    simulator.register_kernel_cost(kernels::BURN, |launch| {
        let long = launch.block_count() > 1;
        BlockCost::idle(Duration::from_millis(if long { 100 } else { 1 }))
    });
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = SmPartitionManager::on(&device).unwrap();
    manager.init_quad_partition().unwrap();
    (simulator, device, manager)
}

fn burn(device: &CudaDevice) -> Kernel {
    let module = Module::load_ptx(device, kernels::PTX).unwrap();
    module.kernel(kernels::BURN).unwrap()
}

fn launch(kernel: &Kernel, stream: &Stream, blocks: u32) {
    let shape = LaunchConfig::linear(blocks, 32);
    // SAFETY: the kernel takes an address and a number, and as a simulated one it looks at neither.
    unsafe { stream.launch(kernel, &shape, &[&0u64, &0u32]).unwrap() };
}

/// A strict hand-off makes new work wait for the old on its SMs, and a relaxed one does not; the host never waits.
#[test]
fn only_a_strict_hand_off_waits() {
    for (hand_off, waits) in [(HandOff::Strict, true), (HandOff::Relaxed, false)] {
        let (_simulator, device, manager) = quad();
        let kernel = burn(&device);
        manager.provision_rebalance().unwrap(); // making contexts waits for all work
        let old = manager.get_context(ContextId::Dream).unwrap();
        let old = old.create_stream().unwrap();
        let old_work = Event::new(&device).unwrap();
        launch(&kernel, &old, 32);
        old.record(&old_work).unwrap();
        manager
            .rebalance_with(RebalanceHint::TrainingActive, hand_off)
            .unwrap();
        let new = manager.get_context(ContextId::Training).unwrap();
        let new = new.create_stream().unwrap();
        assert!(!old_work.is_done().unwrap(), "the host does not wait");
        launch(&kernel, &new, 1);
        new.synchronize().unwrap();
        assert_eq!(old_work.is_done().unwrap(), waits, "{hand_off:?}");
    }
}

/// A name that is created over SMs that another had on loan comes after what that one's old handles left there: the
/// driver creates no green context before (seen on an H200, driver 580).
#[test]
fn a_new_name_comes_after_the_work_of_contexts_that_had_its_sms() {
    let (_simulator, device, manager) = quad();
    manager.rebalance(RebalanceHint::EmbeddingHeavy).unwrap();
    let old = manager.get_context(ContextId::Embedding).unwrap();
    let old = old.create_stream().unwrap();
    manager.rebalance(RebalanceHint::Balanced).unwrap();
    manager.destroy_context(ContextId::Dream).unwrap();

    let kernel = burn(&device);
    launch(&kernel, &old, 80);
    let old_work = Event::new(&device).unwrap();
    old.record(&old_work).unwrap();

    let config = GreenContextConfig {
        sm_count: 32,
        ..GreenContextConfig::default()
    };
    assert!(!old_work.is_done().unwrap());
    let new = manager.create_context(ContextId::Dream, config).unwrap();
    let new = new.create_stream().unwrap();
    launch(&kernel, &new, 1);
    new.synchronize().unwrap();
    assert!(
        old_work.is_done().unwrap(),
        "the SMs were still the old work's"
    );
}

/// Where a rebalance needs room, what it is to put into force is not what makes room.
#[test]
fn contexts_that_a_rebalance_wants_make_no_room_for_others() {
    let (simulator, _device, manager) = quad();
    manager.rebalance(RebalanceHint::TrainingActive).unwrap();
    manager.rebalance(RebalanceHint::Balanced).unwrap();
    assert_eq!(manager.allocation_status().green_contexts, 7);
    // Missing are Embedding's and Training's; of the three that are not in force, only Training's is not wanted.
    manager.set_context_limit(Some(8));
    simulator.start_trace();
    manager.rebalance(RebalanceHint::EmbeddingHeavy).unwrap();
    let trace = simulator.take_trace();
    let count = |name| trace.iter().filter(|call| call.entry_point == name).count();
    assert_eq!(
        (count("cuGreenCtxDestroy"), count("cuGreenCtxCreate")),
        (1, 2)
    );
    assert_eq!(manager.allocation_status().green_contexts, 8);
}

/// What a rebalance puts into force is for as many threads as any context of the name, also where it was made before
/// there were so many.
#[test]
fn contexts_are_provisioned_for_as_many_threads_as_any_of_their_name() {
    let (_simulator, _device, manager) = quad();
    manager.rebalance(RebalanceHint::TrainingActive).unwrap();
    manager.rebalance(RebalanceHint::Balanced).unwrap();
    let training = || manager.get_context(ContextId::Training).unwrap();
    assert_eq!(training().provision_threads(3).unwrap(), 3);
    manager.provision_rebalance().unwrap();
    for hint in RebalanceHint::ALL {
        manager.rebalance(hint).unwrap();
        // Nothing is made here: it tells how many there are.
        assert_eq!(training().provision_threads(0).unwrap(), 3, "{hint:?}");
    }
}

/// A sibling that comes after a strict hand-off waits for what that made its context wait for. By the calls: creating
/// a green context waits for the device anyway (seen on an H200, driver 580), which the driver does not promise.
#[test]
fn a_later_sibling_waits_for_what_the_hand_off_did() {
    let (simulator, _device, manager) = quad();
    manager.rebalance(RebalanceHint::TrainingActive).unwrap();
    let training = manager.get_context(ContextId::Training).unwrap();
    simulator.start_trace();
    assert_eq!(training.provision_threads(2).unwrap(), 2);
    let trace = simulator.take_trace();
    let calls = trace.iter().map(|call| call.entry_point);
    let waits = calls.filter(|call| *call == "cuGreenCtxWaitEvent").count();
    // Training's own context before, and those that gave.
    assert_eq!(waits, 3);
}

//! The end of a context: its work is done then, that of streams that are gone as well.

use std::time::Duration;

use cuda_green::{
    ContextId, Driver, GreenContext, GreenContextConfig, LaunchConfig, Module, Result,
    SmPartitionManager, SmSplit, kernels,
    sim::{BlockCost, Sim},
};

const LONG: Duration = Duration::from_millis(5);

fn simulator(version: &str) -> Result<Sim> {
    let simulator = Sim::new(&format!("h200@{version}"))?;
    simulator.register_kernel_cost(kernels::BURN, |_| BlockCost::idle(LONG));
    Ok(simulator)
}

/// Puts long work into a stream of a context, and drops the stream.
fn work(context: &GreenContext) -> Result<Module> {
    let module = Module::load_ptx(context.device(), kernels::PTX)?;
    let stream = context.create_stream()?;
    let kernel = module.kernel(kernels::BURN)?;
    // SAFETY: the kernel comes to write to no address.
    unsafe { stream.launch(&kernel, &LaunchConfig::linear(1, 32), &[&0u64, &1u32])? };
    assert!(!stream.is_done()?);
    Ok(module)
}

/// The SMs of a name are idle when others can have them.
#[test]
fn a_name_ends_after_its_work() -> Result<()> {
    for version in ["12.4", "13.0", "13.5"] {
        let simulator = simulator(version)?;
        let manager = SmPartitionManager::on(&Driver::simulated(&simulator)?.device(0)?)?;
        manager.init_quad_partition()?;
        let module = work(&manager.get_context(ContextId::Dream)?)?;
        let begun = simulator.now();
        manager.destroy_context(ContextId::Dream)?;
        assert!(
            simulator.now() - begun >= LONG - Duration::from_millis(1),
            "{version}"
        );
        drop(module);
    }
    Ok(())
}

/// Closed or dropped.
#[test]
fn a_context_ends_after_its_work() -> Result<()> {
    for close in [true, false] {
        let simulator = simulator("13.0")?;
        let device = Driver::simulated(&simulator)?.device(0)?;
        let parts = device.sm_resource()?.split(&SmSplit::equal(1, 32))?;
        let config = GreenContextConfig::default();
        let context = GreenContext::from_resources(&parts.groups, None, config)?;
        let module = work(&context)?;
        let begun = simulator.now();
        if close {
            context.close()?;
        } else {
            drop(context);
        }
        assert!(
            simulator.now() - begun >= LONG - Duration::from_millis(1),
            "close: {close}"
        );
        drop(module);
    }
    Ok(())
}

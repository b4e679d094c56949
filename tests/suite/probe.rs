//! Probes: whether work of others is seen, and contexts are shown to be apart without ids.

use std::time::Duration;

use cuda_green::{
    ContextId, ContextPolicy, ContextProbe, Driver, GreenContext, Kernel, LaunchConfig, Result,
    Stream, VerificationMethod, kernels,
};

use crate::{
    Case,
    support::{is_partitioned, kernel, quad},
};

pub const CASES: &[Case] = &[
    ("probe/nobody_is_seen_on_an_idle_device", idle),
    ("probe/work_left_in_the_primary_context_is_seen", primary),
    ("probe/neighbours_are_not_seen", neighbours),
    ("probe/residency_shows_partitions_apart", residency),
];

/// Keeps the SMs of a stream's context busy for about 60 ms, with blocks of 1 ms. The kernel is to be kept until
/// the stream has ended.
fn flood(stream: &Stream) -> Result<Kernel> {
    let kernel = kernel(stream.device(), kernels::SM_IDS)?;
    let blocks = stream.context().sm_count() * 2;
    let stay = Duration::from_millis(1).as_nanos() as u32;
    for _ in 0..60 {
        // SAFETY: the kernel takes a pointer to counters, their number and a time; without counters it writes
        // nothing. Each case keeps it until the stream has ended.
        unsafe {
            stream.launch(
                &kernel,
                &LaunchConfig::linear(blocks, 1024),
                &[&0u64, &0u32, &stay],
            )?
        };
    }
    Ok(kernel)
}

fn idle(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let probe = manager.probe()?;
    assert!(!probe.is_disturbed(), "{probe}");
    Ok(())
}

fn primary(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    // Loads the probe's kernel, which would wait for the flood's end.
    manager.probe()?;
    let stream = GreenContext::primary(&device, ContextPolicy::default())?.create_stream()?;
    for id in ContextId::ALL {
        let context = manager.get_context(id)?;
        let kernel = flood(&stream)?;
        let seen = context.probe()?;
        stream.synchronize()?;
        drop(kernel);
        assert!(
            matches!(seen, ContextProbe::Disturbed { .. }),
            "{id:?}: {seen}"
        );
    }
    Ok(())
}

fn neighbours(driver: &Driver) -> Result<()> {
    if !is_partitioned(driver) {
        return Ok(());
    }
    let (_, manager) = quad(driver)?;
    manager.probe()?;
    let stream = manager.get_context(ContextId::Dream)?.create_stream()?;
    for id in ContextId::ALL {
        let context = manager.get_context(id)?;
        let kernel = flood(&stream)?;
        let seen = context.probe()?;
        stream.synchronize()?;
        drop(kernel);
        let expected = if id == ContextId::Dream {
            matches!(seen, ContextProbe::InUse)
        } else {
            matches!(seen, ContextProbe::Undisturbed { .. })
        };
        assert!(expected, "{id:?}: {seen}");
    }
    Ok(())
}

fn residency(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let found = manager.verify_by(VerificationMethod::Residency)?;
    assert_eq!(found.is_isolated(), is_partitioned(driver), "{found}");
    Ok(())
}

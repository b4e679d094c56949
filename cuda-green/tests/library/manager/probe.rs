//! Probes by residency: what they find in virtual time, and what verification says under MPS.

use std::time::Duration;

use cuda_green::{
    ContextId, ContextPolicy, ContextProbe, Driver, Error, GreenContext, GreenContextConfig,
    LaunchConfig, Module, Result, SmPartitionManager, SmSplit, Stream, VerificationMethod, kernels,
    planner::PartitionRequest, sim::Sim,
};

/// A quad on a simulated H200 of this version, and the simulator.
fn quad(version: &str, faults: &[&str]) -> Result<(Sim, SmPartitionManager)> {
    let simulator = Sim::new(&format!("h200@{version}"))?;
    for fault in faults {
        simulator.inject(fault.parse().unwrap());
    }
    let manager = SmPartitionManager::on(&Driver::simulated(&simulator)?.device(0)?)?;
    manager.init_quad_partition()?;
    Ok((simulator, manager))
}

/// Puts so many kernels into a stream, of blocks of 1024 threads that each stay for this long.
fn flood(stream: &Stream, kernels: u32, blocks: u32, stay: Duration) -> Result<Module> {
    let module = Module::load_ptx(stream.device(), kernels::PTX)?;
    let kernel = module.kernel(kernels::SM_IDS)?;
    let stay = u32::try_from(stay.as_nanos()).unwrap();
    for _ in 0..kernels {
        // SAFETY: the kernel takes a pointer to counters, their number and a time; without counters it writes
        // nothing.
        unsafe {
            stream.launch(
                &kernel,
                &LaunchConfig::linear(blocks, 1024),
                &[&0u64, &0u32, &stay],
            )?
        };
    }
    Ok(module)
}

fn is_undisturbed(probe: ContextProbe) -> bool {
    matches!(probe, ContextProbe::Undisturbed { .. })
}

#[test]
fn nobody_is_seen_on_an_idle_device() -> Result<()> {
    for version in ["12.4", "12.8", "13.0", "13.5"] {
        let (_, manager) = quad(version, &[])?;
        let probe = manager.probe()?;
        assert!(!probe.is_disturbed(), "{version}: {probe}");
        let ids: Vec<ContextId> = probe.contexts.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, ContextId::ALL);
        assert!(probe.contexts.iter().all(|(_, seen)| is_undisturbed(*seen)));
    }
    Ok(())
}

/// One stream that is left in the primary context is found on the SMs of every partition, though nobody listed it.
#[test]
fn work_in_the_primary_context_is_seen_in_every_partition() -> Result<()> {
    let (_, manager) = quad("13.0", &[])?;
    let stream =
        GreenContext::primary(manager.device(), ContextPolicy::default())?.create_stream()?;
    for id in ContextId::ALL {
        let module = flood(&stream, 20, 132 * 2 * 2, Duration::from_millis(1))?;
        let seen = manager.get_context(id)?.probe()?;
        let ContextProbe::Disturbed {
            late,
            rounds,
            longest_delay,
            ..
        } = seen
        else {
            panic!("{id:?}: {seen}");
        };
        assert!(late > 0 && late <= rounds, "{id:?}: {seen}");
        assert!(longest_delay > Duration::from_micros(500), "{id:?}: {seen}");
        assert!(seen.to_string().starts_with("disturbed in "), "{seen}");
        stream.synchronize()?;
        drop(module);
        assert!(is_undisturbed(manager.get_context(id)?.probe()?));
    }
    let module = flood(&stream, 20, 132 * 2 * 2, Duration::from_millis(1))?;
    assert!(manager.probe()?.is_disturbed());
    stream.synchronize()?;
    drop(module);
    Ok(())
}

/// A partition whose own streams work is told as in use; its neighbours do not see it.
#[test]
fn work_in_a_partition_is_not_seen_by_its_neighbours() -> Result<()> {
    let (_, manager) = quad("13.0", &[])?;
    let stream = manager.get_context(ContextId::Dream)?.create_stream()?;
    let module = flood(&stream, 200, 32 * 2 * 2, Duration::from_millis(1))?;
    for (id, seen) in manager.probe()?.contexts {
        if id == ContextId::Dream {
            assert_eq!(seen, ContextProbe::InUse);
        } else {
            assert!(is_undisturbed(seen), "{id:?}: {seen}");
        }
    }
    stream.synchronize()?;
    drop(module);
    Ok(())
}

/// Under MPS every context sees SMs numbered from 0, and yet its partitions are told as what they are: apart.
#[test]
fn ids_that_mps_numbers_anew_are_not_compared() -> Result<()> {
    for version in ["12.4", "13.0", "13.5"] {
        let (_, manager) = quad(version, &["mps=100%"])?;
        assert!(manager.device().is_under_mps());
        let found = manager.verify()?;
        assert_eq!(found.method, VerificationMethod::Residency);
        assert!(found.is_isolated(), "{version}: {found}");
        for (id, sms) in &found.contexts {
            let expected = manager.get_context(*id)?.sm_count();
            assert!(sms.iter().copied().eq(0..expected), "{id:?}: {sms:?}");
        }
    }
    let (_, manager) = quad("13.0", &[])?;
    assert_eq!(manager.verify()?.method, VerificationMethod::SmIds);
    Ok(())
}

/// A driver that does not keep its word is found under MPS as well, and the pairs that share SMs are named.
#[test]
fn contexts_that_share_sms_are_found_under_mps() -> Result<()> {
    let (_, manager) = quad("13.0", &["mps=100%", "green#2=everywhere"])?;
    let found = manager.verify()?;
    let pairs: Vec<[ContextId; 2]> = found.overlaps.iter().map(|one| one.between).collect();
    let dream = ContextId::Dream;
    assert_eq!(
        pairs,
        [
            [ContextId::Embedding, dream],
            [dream, ContextId::Training],
            [dream, ContextId::Reserved],
        ]
    );
    assert!(found.overlaps.iter().all(|one| one.sms.is_empty()));
    assert_eq!(found.miscounted.len(), 1, "{found}");
    let text = found.to_string();
    assert!(text.contains("Embedding and Dream share SMs, or"), "{text}");
    Ok(())
}

/// What forbids partitions is told, and what to unset, instead of sizes that could never help.
#[test]
fn a_percentage_of_mps_is_named_as_what_forbids_partitions() -> Result<()> {
    for (percent, sms) in [(75, 98), (50, 66), (25, 32)] {
        for version in ["12.4", "13.0", "13.5"] {
            let simulator = Sim::new(&format!("h200@{version}"))?;
            simulator.inject(format!("mps={percent}%").parse().unwrap());
            let device = Driver::simulated(&simulator)?.device(0)?;
            let manager = SmPartitionManager::on(&device)?;
            let at_least = PartitionRequest::at_least(8);
            let config = GreenContextConfig {
                sm_count: 8,
                ..GreenContextConfig::default()
            };
            for refused in [
                manager.init_quad_partition().unwrap_err(),
                manager.plan(&[at_least]).unwrap_err(),
                manager
                    .create_context(ContextId::Dream, config)
                    .unwrap_err(),
                device
                    .sm_resource()?
                    .split(&SmSplit::equal(1, 8))
                    .unwrap_err(),
                device
                    .sm_resource()?
                    .dry_run(&SmSplit::equal(1, 8))
                    .unwrap_err(),
            ] {
                let text = refused.to_string();
                assert!(
                    matches!(refused, Error::LimitedByMps { sm_count, .. } if sm_count == sms),
                    "{version}: {text}"
                );
                assert!(
                    text.contains("set_default_active_thread_percentage"),
                    "{text}"
                );
            }
            assert!(manager.allocation_status().contexts.is_empty());
        }
    }
    Ok(())
}

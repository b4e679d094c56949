//! What graphs keep, and until when.

use std::{sync::Arc, time::Duration};

use cuda_green::{
    CaptureMode, ContextId, Driver, Error, Event, LaunchConfig, Module, Result, SmPartitionManager,
    Stream, kernels,
    sim::{BlockCost, Sim},
    sys::CUresult,
};

/// A stream of each of two partitions, whose contexts nobody else has.
fn streams_of_two_partitions(simulator: &Sim) -> Result<[Stream; 2]> {
    let device = Driver::simulated(simulator)?.device(0)?;
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    let stream = |id| manager.get_context(id)?.create_stream();
    Ok([stream(ContextId::Embedding)?, stream(ContextId::Training)?])
}

/// A graph's kernels run on the SMs of the streams that it was captured in: those partitions live as long as it does.
#[test]
fn a_graph_keeps_the_contexts_of_forked_streams() -> Result<()> {
    let simulator = Sim::new("h200@13.0")?;
    let contexts = || simulator.live_objects().green_contexts;
    {
        let [stream, other] = streams_of_two_partitions(&simulator)?;
        let kernel = Module::load_ptx(stream.device(), kernels::PTX)?.kernel(kernels::BURN)?;
        let shape = LaunchConfig::linear(1, 32);
        let back = Event::new(stream.device())?;
        let graph = stream.capture(CaptureMode::default(), |capture| {
            capture.fork(&other)?;
            capture.keep(kernel.clone());
            // SAFETY: the kernel takes an address and a number, and writes nothing.
            unsafe { other.launch(&kernel, &shape, &[&0u64, &1u32])? };
            // Not by `join`, which keeps the context, too.
            other.record(&back)?;
            capture.stream().wait(&back)
        })?;
        assert_eq!(contexts(), 2);
        drop(other);
        assert_eq!(contexts(), 2, "the graph has a kernel in it");
        let exec = graph.instantiate()?;
        drop(graph);
        assert_eq!(contexts(), 2, "the instantiation has it, too");
        // SAFETY: the graph keeps its kernel.
        unsafe { exec.launch(&stream)? };
        drop(exec);
        assert_eq!(contexts(), 1);
    }
    simulator.assert_no_leaks();
    Ok(())
}

/// A stream that joined by an event of its own, and is joined again by the capture.
#[test]
fn a_graph_keeps_the_contexts_of_joined_streams() -> Result<()> {
    let simulator = Sim::new("h200@13.0")?;
    let contexts = || simulator.live_objects().green_contexts;
    let [stream, other] = streams_of_two_partitions(&simulator)?;
    let event = Event::new(stream.device())?;
    let graph = stream.capture(CaptureMode::default(), |capture| {
        capture.stream().record(&event)?;
        other.wait(&event)?;
        capture.join(&other)
    })?;
    drop(other);
    assert_eq!(contexts(), 2);
    drop(graph);
    assert_eq!(contexts(), 1);
    Ok(())
}

/// A launch whose end can neither be recorded nor waited for runs all the same: what the graph keeps is not given up
/// under it.
#[test]
fn a_graph_whose_end_is_unknown_keeps_what_it_has() -> Result<()> {
    let simulator = Sim::new("h200@13.0")?;
    simulator.register_kernel_cost(kernels::BURN, |_| BlockCost::idle(Duration::from_millis(5)));
    let [stream, _other] = streams_of_two_partitions(&simulator)?;
    let kernel = Module::load_ptx(stream.device(), kernels::PTX)?.kernel(kernels::BURN)?;
    let shape = LaunchConfig::linear(1, 32);
    let instantiate = |kept: Arc<()>| {
        let graph = stream.capture(CaptureMode::default(), |capture| {
            capture.keep(kept);
            // SAFETY: the kernel takes an address and a number, and writes nothing.
            unsafe { capture.launch(&kernel, &shape, &[&0u64, &1u32]) }
        })?;
        graph.instantiate()
    };
    let refuse = |calls: &[&str]| {
        for entry_point in calls {
            let code = CUresult::CUDA_ERROR_INVALID_VALUE;
            simulator.fail(entry_point, 1, code).unwrap();
        }
    };
    // Waited for where it cannot be recorded.
    let kept = Arc::new(());
    let exec = instantiate(kept.clone())?;
    refuse(&["cuEventRecord"]);
    // SAFETY: the graph keeps its kernel.
    unsafe { exec.launch(&stream)? };
    simulator.assert_injections_fired();
    assert!(stream.is_done()? && exec.is_done()?);

    refuse(&["cuEventRecord", "cuStreamSynchronize"]);
    // SAFETY: as above.
    let refused = unsafe { exec.launch(&stream) };
    simulator.assert_injections_fired();
    assert!(refused.is_err() && !stream.is_done()?);
    assert!(matches!(exec.is_done(), Err(Error::EndUnknown)));
    // The next launch comes after it, and its end is known.
    // SAFETY: as above.
    unsafe { exec.launch(&stream)? };
    assert!(!exec.is_done()?);
    drop(exec);
    assert!(stream.is_done()?);
    assert_eq!(Arc::strong_count(&kept), 1);

    let exec = instantiate(kept.clone())?;
    refuse(&["cuEventRecord", "cuStreamSynchronize"]);
    // SAFETY: as above.
    assert!(unsafe { exec.launch(&stream) }.is_err());
    let execs = simulator.live_objects().graph_execs;
    drop(exec);
    assert!(!stream.is_done()?);
    assert_eq!(Arc::strong_count(&kept), 2, "the graph runs");
    assert_eq!(simulator.live_objects().graph_execs, execs);
    Ok(())
}

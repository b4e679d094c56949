//! What graphs keep, and until when.

#![allow(clippy::unwrap_used)] // these are tests

use cuda_green::{
    CaptureMode, ContextId, Driver, Event, LaunchConfig, Module, Result, SmPartitionManager,
    Stream, kernels, sim::Sim,
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

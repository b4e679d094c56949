//! What this crate waits for and asks on its own account, while another thread captures a stream in mode `Global`: it
//! gets its answer, and the capture ends well.

use std::time::Duration;

use cuda_green::{
    CaptureMode, ContextId, ContextProbe, Driver, GpuMemoryPool, Kernel, LaunchConfig, Module,
    Result, SmPartitionManager, Stream, VerificationMethod, kernels,
    sim::{BlockCost, Sim},
};

struct Scene {
    simulator: Sim,
    manager: SmPartitionManager,
    /// The stream that is captured.
    captured: Stream,
    /// A stream with work in it.
    worker: Stream,
    kernel: Kernel,
}

const WORK: Duration = Duration::from_millis(5);

impl Scene {
    fn new() -> Result<Self> {
        let simulator = Sim::new("h200@13.0")?;
        simulator.register_kernel_cost(kernels::BURN, |_| BlockCost::idle(WORK));
        let device = Driver::simulated(&simulator)?.device(0)?;
        let manager = SmPartitionManager::on(&device)?;
        manager.init_quad_partition()?;
        let stream = |id| manager.get_context(id)?.create_stream();
        Ok(Self {
            captured: stream(ContextId::Reserved)?,
            worker: stream(ContextId::Training)?,
            kernel: Module::load_ptx(&device, kernels::PTX)?.kernel(kernels::BURN)?,
            simulator,
            manager,
        })
    }

    fn busy(&self, stream: &Stream) -> Result<()> {
        let shape = LaunchConfig::linear(1, 32);
        // SAFETY: a simulated kernel without a body touches nothing.
        unsafe { stream.launch(&self.kernel, &shape, &[&0u64, &0u32]) }
    }

    /// Does something on another thread while this one captures a stream.
    fn beside<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let mut answer = None;
        self.captured.capture(CaptureMode::Global, |_| {
            answer = Some(std::thread::scope(|scope| {
                scope.spawn(action).join().unwrap()
            }));
            Ok(())
        })?;
        answer.unwrap()
    }
}

/// A stream of a name waits for its own event.
#[test]
fn a_stream_of_a_name_is_waited_for() -> Result<()> {
    let scene = Scene::new()?;
    let stream = scene.manager.create_stream(ContextId::Embedding)?;
    stream.with(|stream| scene.busy(stream))?;
    let before = scene.simulator.now();
    scene.beside(|| stream.synchronize())?;
    assert!(scene.simulator.now() - before >= WORK / 2);
    Ok(())
}

#[test]
fn a_probe_looks_and_waits() -> Result<()> {
    let scene = Scene::new()?;
    let context = scene.manager.get_context(ContextId::Embedding)?;
    let probe = scene.beside(|| context.probe())?;
    assert!(matches!(probe, ContextProbe::Undisturbed { .. }), "{probe}");
    let context = scene.manager.get_context(ContextId::Training)?;
    scene.busy(&scene.worker)?;
    let probe = scene.beside(|| context.probe())?;
    assert!(matches!(probe, ContextProbe::InUse), "{probe}");
    Ok(())
}

#[test]
fn partitions_are_verified() -> Result<()> {
    let scene = Scene::new()?;
    for method in [VerificationMethod::SmIds, VerificationMethod::Residency] {
        let verified = scene.beside(|| scene.manager.verify_by(method))?;
        assert!(verified.is_isolated(), "{verified}");
    }
    Ok(())
}

#[test]
fn the_end_of_a_graph_is_asked_and_waited_for() -> Result<()> {
    let scene = Scene::new()?;
    let graph = scene.worker.capture(CaptureMode::default(), |capture| {
        let shape = LaunchConfig::linear(1, 32);
        // SAFETY: a simulated kernel without a body touches nothing.
        unsafe { capture.launch(&scene.kernel, &shape, &[&0u64, &0u32]) }
    })?;
    let exec = graph.instantiate()?;
    // SAFETY: the graph keeps its kernel, which uses no memory.
    unsafe { exec.launch(&scene.worker)? };
    assert!(!scene.beside(|| exec.is_done())?);
    let before = scene.simulator.now();
    scene.beside(|| {
        drop(exec);
        Ok(())
    })?;
    assert!(scene.simulator.now() - before >= WORK / 2);
    Ok(())
}

#[test]
fn the_end_of_work_is_told() -> Result<()> {
    let scene = Scene::new()?;
    scene.busy(&scene.worker)?;
    let (tell, told) = std::sync::mpsc::channel();
    let scene = &scene;
    scene.beside(move || {
        scene
            .worker
            .completion()
            .on_done(move |end| tell.send(end).unwrap())?;
        told.recv().unwrap()
    })
}

#[test]
fn a_copy_is_waited_for() -> Result<()> {
    let scene = Scene::new()?;
    let pool = GpuMemoryPool::on(scene.manager.device(), 64 << 20)?;
    let buffer = pool.allocate(1 << 20)?;
    scene.beside(|| {
        buffer.fill(7)?;
        buffer.copy_from(&[8; 100_000])?;
        let mut found = [0; 100_001];
        buffer.copy_to(&mut found)?;
        assert_eq!((found[99_999], found[100_000]), (8, 7));
        Ok(())
    })
}

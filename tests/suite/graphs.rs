//! Graphs: where they run, what they keep alive, and that a capture always ends.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use cuda_green::{
    Capture, CaptureMode, ContextId, Driver, Error, GpuBuffer, GpuMemoryPool, GreenContext, Kernel,
    LaunchConfig, PartitionGraph, RebalanceHint, Result, Stream, kernels,
};

use crate::{
    Case,
    support::{is_partitioned, kernel, quad, sm_ids, times},
};

pub const CASES: &[Case] = &[
    ("graphs/stay_on_the_sms_of_their_capture", stays),
    ("graphs/fork_into_other_partitions", forks),
    ("graphs/a_capture_always_ends", always_ends),
    ("graphs/keep_what_they_need", keeps),
    ("graphs/launches_come_one_after_another", in_order),
    ("graphs/follow_a_name_across_a_rebalance", follow),
    ("graphs/buffers_are_no_part_of_a_capture", buffers),
    ("graphs/streams_of_other_drivers_are_refused", foreign),
];

/// More ids than any device has SMs.
const IDS: u32 = 1024;

/// The kernel that notes the SMs it runs on, and where it notes them.
struct Probe {
    kernel: Kernel,
    counts: GpuBuffer,
    config: LaunchConfig,
}

impl Probe {
    fn new(context: &GreenContext) -> Result<Self> {
        let device = context.device();
        let counts = GpuMemoryPool::on(device, u64::from(IDS) * 4)?.allocate(IDS as usize * 4)?;
        counts.fill(0)?;
        Ok(Self {
            kernel: kernel(device, kernels::SM_IDS)?,
            counts,
            config: LaunchConfig::linear(device.properties().multiprocessor_count * 8, 1024),
        })
    }

    /// Puts its kernel into a capture.
    fn capture(&self, capture: &Capture<'_>) -> Result<()> {
        // SAFETY: the kernel takes a pointer to counters, their number and a time; the counters live until
        // every launch was waited for.
        unsafe {
            capture.launch(
                &self.kernel,
                &self.config,
                &[&self.counts.address(), &IDS, &20_000_u32],
            )
        }
    }

    /// The same into a stream that was taken into a capture.
    fn launch(&self, stream: &Stream) -> Result<()> {
        let args: [&dyn cuda_green::KernelArg; 3] = [&self.counts.address(), &IDS, &20_000_u32];
        // SAFETY: as above; the kernel outlives its launches.
        unsafe { stream.launch(&self.kernel, &self.config, &args) }
    }

    /// The SMs since the last time.
    fn seen(&self) -> Result<BTreeSet<u32>> {
        let mut bytes = vec![0; IDS as usize * 4];
        self.counts.copy_to(&mut bytes)?;
        self.counts.fill(0)?;
        let counts = (0..).zip(bytes.chunks(4));
        let ran = counts.filter(|(_, count)| count.iter().any(|byte| *byte != 0));
        Ok(ran.map(|(id, _)| id).collect())
    }
}

fn stays(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let here = manager.get_context(ContextId::Embedding)?;
    let there = manager.get_context(ContextId::Dream)?;
    let (in_here, in_there) = (here.create_stream()?, there.create_stream()?);
    let probe = Probe::new(&here)?;
    let graph = in_here.capture(CaptureMode::default(), |capture| probe.capture(capture))?;
    in_here.synchronize()?;
    assert!(probe.seen()?.is_empty(), "a capture runs nothing");
    let exec = graph.instantiate()?;
    drop(graph);
    exec.upload(&in_there)?;
    assert!(exec.is_done()?, "not launched yet");
    let own = sm_ids(&here)?;
    for stream in [&in_here, &in_there, &in_here] {
        // SAFETY: the counters outlive the wait.
        unsafe { exec.launch(stream)? };
        stream.synchronize()?;
        assert!(exec.is_done()?);
        assert_eq!(probe.seen()?, own, "those of the capture");
    }
    if is_partitioned(driver) {
        assert_ne!(own, sm_ids(&there)?);
    }
    Ok(())
}

fn forks(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let ids = [ContextId::Embedding, ContextId::Dream, ContextId::Training];
    let contexts = ids.map(|id| manager.get_context(id));
    let [main, left, right] = contexts;
    let (main, left, right) = (main?, left?, right?);
    let streams = [
        main.create_stream()?,
        left.create_stream()?,
        right.create_stream()?,
    ];
    let probes = [Probe::new(&main)?, Probe::new(&left)?, Probe::new(&right)?];
    let graph = streams[0].capture(CaptureMode::Global, |capture| {
        for stream in &streams[1..] {
            capture.fork(stream)?;
        }
        for (probe, stream) in probes.iter().zip(&streams) {
            probe.launch(stream)?;
        }
        for stream in &streams[1..] {
            capture.join(stream)?;
        }
        Ok(())
    })?;
    let exec = graph.instantiate()?;
    // SAFETY: kernels and counters outlive the wait.
    unsafe { exec.launch(&streams[0])? };
    streams[0].synchronize()?;
    for (probe, context) in probes.iter().zip([&main, &left, &right]) {
        assert_eq!(probe.seen()?, sm_ids(context)?);
    }
    Ok(())
}

fn always_ends(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let context = manager.get_context(ContextId::Embedding)?;
    let (stream, other) = (context.create_stream()?, context.create_stream()?);
    let own_error = || {
        Err(Error::NoSuchModel {
            name: "mine".to_owned(),
        })
    };
    for _ in 0..times(driver, 5, 2) {
        let refused = stream.capture(CaptureMode::default(), |_| own_error());
        assert!(matches!(refused, Err(Error::NoSuchModel { .. })));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            stream.capture(CaptureMode::default(), |_| -> Result<()> {
                std::panic::resume_unwind(Box::new("within")) // without a message
            })
        }));
        assert!(panicked.is_err());
        // What a capture forbids is an error where it is done, and of the capture.
        let refused = stream.capture(CaptureMode::default(), |capture| {
            capture.stream().synchronize()
        });
        assert!(
            matches!(refused, Err(Error::CaptureFailed { .. })),
            "{refused:?}"
        );
        let refused = stream.capture(CaptureMode::default(), |capture| {
            let _ = capture.stream().is_done();
            Ok(())
        });
        assert!(
            matches!(refused, Err(Error::CaptureFailed { .. })),
            "{refused:?}"
        );
        let refused = stream.capture(CaptureMode::default(), |_| {
            stream.capture(CaptureMode::default(), |_| Ok(())).map(drop)
        });
        assert!(
            matches!(refused, Err(Error::CaptureFailed { .. })),
            "{refused:?}"
        );
        let probe = Probe::new(&context)?;
        let refused = stream.capture(CaptureMode::default(), |capture| {
            capture.fork(&other)?;
            probe.launch(&other)
        });
        assert!(
            matches!(refused, Err(Error::CaptureFailed { .. })),
            "{refused:?}"
        );
        // And streams are as good as new.
        for stream in [&stream, &other] {
            stream.synchronize()?;
            let graph = stream.capture(CaptureMode::default(), |capture| probe.capture(capture))?;
            let exec = graph.instantiate()?;
            // SAFETY: the counters outlive the wait.
            unsafe { exec.launch(stream)? };
            stream.synchronize()?;
            assert_eq!(probe.seen()?, sm_ids(&context)?);
        }
    }
    Ok(())
}

/// Kernels, contexts and what was given to it live as long as it does.
fn keeps(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let own = sm_ids(&manager.get_context(ContextId::Dream)?)?;
    let (exec, probe, token) = {
        let context = manager.get_context(ContextId::Dream)?;
        let probe = Arc::new(Probe::new(&context)?);
        let token = Arc::new(());
        let graph = context
            .create_stream()?
            .capture(CaptureMode::Relaxed, |capture| {
                capture.keep(Arc::clone(&probe));
                capture.keep(Arc::clone(&token));
                probe.capture(capture)
            })?;
        (graph.instantiate()?, probe, token)
    };
    assert_eq!(Arc::strong_count(&token), 2);
    let refused = manager.destroy_context(ContextId::Dream);
    if is_partitioned(driver) {
        assert!(
            matches!(refused, Err(Error::ContextInUse { .. })),
            "{refused:?}"
        );
    }
    let stream = manager.get_context(ContextId::Training)?.create_stream()?;
    // SAFETY: the graph keeps all that it uses.
    unsafe { exec.launch(&stream)? };
    drop(exec);
    assert!(stream.is_done()?, "the last launch was waited for");
    assert_eq!(Arc::strong_count(&token), 1);
    assert_eq!(probe.seen()?, own);
    if is_partitioned(driver) {
        manager.destroy_context(ContextId::Dream)?;
    }
    Ok(())
}

/// Launches of one instantiation from many threads, each in a stream of its own.
fn in_order(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let context = manager.get_context(ContextId::Embedding)?;
    let probe = Probe::new(&context)?;
    let capturing = context.create_stream()?;
    let graph = capturing.capture(CaptureMode::default(), |capture| probe.capture(capture))?;
    let exec = graph.instantiate()?;
    let launches = times(driver, 20, 5);
    std::thread::scope(|scope| {
        let threads: Vec<_> = ContextId::ALL
            .iter()
            .map(|id| {
                let (exec, manager) = (&exec, &manager);
                scope.spawn(move || -> Result<()> {
                    let stream = manager.get_context(*id)?.create_stream()?;
                    for _ in 0..launches {
                        // SAFETY: the counters outlive the wait.
                        unsafe { exec.launch(&stream)? };
                    }
                    stream.synchronize()
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    })?;
    let mut bytes = vec![0; IDS as usize * 4];
    probe.counts.copy_to(&mut bytes)?;
    let counts = bytes.chunks_exact(4);
    let blocks: u64 = counts
        .map(|c| u64::from(u32::from_ne_bytes(c.try_into().unwrap())))
        .sum();
    let of_one = u64::from(probe.config.grid[0]);
    assert_eq!(
        blocks,
        of_one * launches as u64 * ContextId::ALL.len() as u64
    );
    Ok(())
}

fn follow(driver: &Driver) -> Result<()> {
    if driver.version() < cuda_green::CudaVersion::new(12, 5) {
        return Ok(()); // nothing is rebalanced there
    }
    let (_, manager) = quad(driver)?;
    let id = ContextId::Training;
    let old = manager.get_context(id)?;
    let before = sm_ids(&old)?;
    let probe = Arc::new(Probe::new(&old)?);
    let direct = old
        .create_stream()?
        .capture(CaptureMode::default(), |capture| probe.capture(capture))?
        .instantiate()?;
    drop(old);
    let recorded = Arc::clone(&probe);
    let graph = PartitionGraph::new(move |capture| recorded.capture(capture));
    let stream = manager.create_stream(id)?;
    graph.prepare(&stream)?;
    let launch = || {
        // SAFETY: the counters outlive the wait.
        unsafe { graph.launch(&stream)? };
        stream.synchronize()?;
        probe.seen()
    };
    assert_eq!(launch()?, before);
    assert_eq!(graph.instantiations(), 1, "prepared ahead");
    for round in 0..times(driver, 10, 3) {
        manager.rebalance(RebalanceHint::TrainingActive)?;
        let now = sm_ids(&manager.get_context(id)?)?;
        assert!(now.len() > before.len());
        assert_eq!(
            launch()?,
            now,
            "round {round}: the SMs that the name has now"
        );
        assert_eq!(graph.instantiations(), 2);
        // What was instantiated before stays valid, on the SMs of its capture.
        // SAFETY: the counters outlive the wait.
        stream.with(|stream| unsafe { direct.launch(stream) })?;
        stream.synchronize()?;
        assert_eq!(probe.seen()?, before);
        manager.rebalance(RebalanceHint::Balanced)?;
        assert_eq!(launch()?, before);
        assert_eq!(
            graph.instantiations(),
            2,
            "round {round}: nothing is captured twice"
        );
    }
    drop(direct);
    let kept = manager.allocation_status().green_contexts;
    manager.release_retired()?;
    assert_eq!(graph.instantiations(), 1, "given up with its context");
    assert!(manager.allocation_status().green_contexts < kept);
    assert_eq!(launch()?, before);
    graph.clear();
    assert_eq!(launch()?, before);
    assert_eq!(graph.instantiations(), 1);
    drop((graph, stream));
    manager.destroy_context(id)
}

/// Buffers refuse streams that are part of a capture, which goes on undisturbed.
fn buffers(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let context = manager.get_context(ContextId::Embedding)?;
    let (stream, other) = (context.create_stream()?, context.create_stream()?);
    let pool = context.memory()?;
    let mut buffer = pool.allocate(64)?;
    let probe = Probe::new(&context)?;
    let graph = stream.capture(CaptureMode::default(), |capture| {
        capture.fork(&other)?;
        for stream in [capture.stream(), &other] {
            for refused in [
                buffer.fill_on(1, stream),
                buffer.fence_on(stream),
                pool.allocate_on(stream, 64).map(drop),
            ] {
                assert!(
                    matches!(refused, Err(Error::InvalidArgument { name: "stream", .. })),
                    "{refused:?}"
                );
            }
        }
        probe.capture(capture)?;
        capture.join(&other)
    })?;
    // SAFETY: the counters outlive the wait.
    unsafe { graph.instantiate()?.launch(&other)? };
    other.synchronize()?;
    assert_eq!(probe.seen()?, sm_ids(&context)?);
    for stream in [&stream, &other] {
        buffer.fill_on(1, stream)?;
        pool.allocate_on(stream, 64)?.free_on(stream)?;
    }
    buffer.free_on(&stream)?;
    Ok(())
}

fn foreign(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let stream = manager.get_context(ContextId::Embedding)?.create_stream()?;
    let exec = stream
        .capture(CaptureMode::default(), |_| Ok(()))?
        .instantiate()?;
    let other = Driver::open(&"sim:h200@13.0".parse()?)?;
    let (_, others) = quad(&other)?;
    let theirs = others.get_context(ContextId::Embedding)?.create_stream()?;
    // SAFETY: the graph is empty.
    let refused = unsafe { exec.launch(&theirs) };
    assert!(matches!(refused, Err(Error::ForeignDriver)), "{refused:?}");
    assert!(matches!(exec.upload(&theirs), Err(Error::ForeignDriver)));
    // SAFETY: the graph is empty.
    unsafe { exec.launch(&stream)? };
    stream.synchronize()
}

//! Memory and streams: what is copied is there for every stream, nothing is used again too early, and nothing of
//! this crate's own doing spoils anybody's capture.

use std::time::Duration;

use cuda_green::{
    CaptureMode, CudaDevice, Driver, Error, Event, GpuMemoryPool, GreenContext, GreenContextConfig,
    Kernel, LaunchConfig, Module, Result, Stream,
    sim::{BlockCost, Injection, Sim},
};

const MIB: usize = 1 << 20;
const MODES: [CaptureMode; 3] = [
    CaptureMode::Global,
    CaptureMode::ThreadLocal,
    CaptureMode::Relaxed,
];

const PTX: &str = ".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry busy(.param .u64 ns) { ret; }\n\
    .visible .entry look(.param .u64 from, .param .u64 to) { ret; }\n";

struct Scene {
    simulator: Sim,
    device: CudaDevice,
    module: Module,
}

impl Scene {
    fn new() -> Result<Self> {
        let simulator = Sim::new("h200@13.0")?;
        simulator.register_kernel_cost("busy", |launch| {
            BlockCost::busy(Duration::from_nanos(launch.arg_u64(0).unwrap()))
        });
        // Copies one byte, at the time of its launch.
        simulator.register_kernel("look", |launch| {
            let mut byte = [0];
            launch.read(launch.arg_u64(0).unwrap(), &mut byte).unwrap();
            launch.write(launch.arg_u64(1).unwrap(), &byte).unwrap();
        });
        let device = Driver::simulated(&simulator)?.device(0)?;
        let module = Module::load_ptx(&device, PTX)?;
        Ok(Self {
            simulator,
            device,
            module,
        })
    }

    fn stream(&self) -> Result<Stream> {
        let all = [self.device.sm_resource()?];
        GreenContext::from_resources(&all, None, GreenContextConfig::default())?.create_stream()
    }

    fn kernel(&self, name: &str) -> Result<Kernel> {
        self.module.kernel(name)
    }

    /// Keeps a stream busy for this long.
    fn busy(&self, stream: &Stream, time: Duration) -> Result<()> {
        let ns = time.as_nanos() as u64;
        let kernel = self.kernel("busy")?;
        // SAFETY: the kernel takes a number.
        unsafe { stream.launch(&kernel, &LaunchConfig::linear(1, 32), &[&ns]) }
    }

    /// The driver's calls of some code.
    fn calls(&self, code: impl FnOnce() -> Result<()>) -> Result<Vec<&'static str>> {
        self.simulator.start_trace();
        let result = code();
        let calls = self.simulator.take_trace();
        result?;
        Ok(calls.iter().map(|call| call.entry_point).collect())
    }
}

/// What was copied is there for every stream, whatever its size.
#[test]
fn a_copy_is_done_for_every_stream_when_it_returns() -> Result<()> {
    let scene = Scene::new()?;
    let stream = scene.stream()?;
    let pool = GpuMemoryPool::on(&scene.device, 1 << 30)?;
    let look = scene.kernel("look")?;
    let seen = pool.allocate(1)?;
    for len in [1, 32 << 10, 64 << 10, MIB, 8 * MIB] {
        let buffer = pool.allocate(len)?;
        for byte in [1, 2] {
            buffer.copy_from(&vec![byte; len])?;
            let last = buffer.address() + len as u64 - 1;
            // SAFETY: both addresses are of live buffers, and the kernel runs at once.
            unsafe {
                stream.launch(
                    &look,
                    &LaunchConfig::linear(1, 1),
                    &[&last, &seen.address()],
                )?
            };
            stream.synchronize()?;
            let mut found = [0];
            seen.copy_to(&mut found)?;
            assert_eq!(found, [byte], "{len} bytes");
        }
    }
    Ok(())
}

/// The next owner of a buffer's memory is not overwritten by a copy for the last one.
#[test]
fn a_copy_does_not_reach_the_next_owner() -> Result<()> {
    let scene = Scene::new()?;
    let stream = scene.stream()?;
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    for len in [64 << 10, MIB, 8 * MIB] {
        let buffer = pool.allocate(len)?;
        let address = buffer.address();
        buffer.copy_from(&vec![1; len])?;
        drop(buffer);
        let mut next = pool.allocate(len)?;
        assert_eq!(next.address(), address, "the test needs the same memory");
        next.fill_on(2, &stream)?;
        stream.synchronize()?;
        scene.simulator.advance(Duration::from_millis(1));
        let mut found = vec![0; len];
        next.copy_to(&mut found)?;
        assert!(found.iter().all(|byte| *byte == 2), "{len} bytes");
    }
    Ok(())
}

/// Copies and fills that wait are in no default stream, so that no capture of a blocking stream is spoilt.
#[test]
fn copies_that_wait_spoil_no_capture() -> Result<()> {
    let scene = Scene::new()?;
    let stream = scene.stream()?;
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    let buffer = pool.allocate(MIB)?;
    for mode in MODES {
        stream
            .capture(mode, |_| {
                buffer.fill(7)?;
                buffer.copy_from(&[8; 100_000])?;
                let mut found = [0; 100_001];
                buffer.copy_to(&mut found)?;
                assert_eq!((found[0], found[99_999], found[100_000]), (8, 8, 7));
                Ok(())
            })
            .unwrap();
    }
    Ok(())
}

/// Whatever this crate allocates, frees or waits for on its own account beside a capture: the capture ends well, and
/// nothing is handed out that a stream still uses.
#[test]
fn a_capture_is_not_spoilt_by_what_pools_do() -> Result<()> {
    let scene = Scene::new()?;
    let (stream, worker) = (scene.stream()?, scene.stream()?);
    for mode in MODES {
        let pool = GpuMemoryPool::on(&scene.device, 256 * MIB as u64)?;
        let child = pool.child(64 * MIB as u64)?;
        let device = &scene.device;
        let mut pinned = pool.allocate_pinned::<u8>(MIB)?;
        let many: Vec<_> = (0..40)
            .map(|_| pool.allocate(4096))
            .collect::<Result<_>>()?;
        stream
            .capture(mode, |_| {
                scene.busy(&worker, Duration::from_millis(5))?;
                // The 33rd buffer that is freed in a stream's order makes the pool look what is done.
                for mut buffer in many {
                    buffer.fill_on(1, &worker)?;
                    drop(buffer);
                }
                let mut large = child.allocate(16 * MIB)?;
                large.copy_from_pinned(&pinned, &worker)?;
                large.copy_to_pinned(&mut pinned, &worker)?;
                drop(large);
                drop(child);
                pool.trim()?;
                let fresh = GpuMemoryPool::on(device, 64 * MIB as u64)?;
                drop(fresh.allocate(32 * MIB)?);
                let other = fresh.allocate_pinned::<u8>(10)?;
                assert_eq!(other.as_slice()?, [0; 10]);
                drop(other);
                drop(fresh);
                drop(pinned);
                Ok(())
            })
            .unwrap();
        drop(pool);
        worker.synchronize()?;
    }
    drop((stream, worker));
    let Scene {
        simulator,
        device,
        module,
    } = scene;
    drop((device, module));
    simulator.assert_no_leaks();
    Ok(())
}

/// A graph that ends beside a capture is waited for all the same, and gives up its values then only.
#[test]
fn a_graph_ends_beside_a_capture() -> Result<()> {
    let scene = Scene::new()?;
    let (stream, worker) = (scene.stream()?, scene.stream()?);
    let busy = scene.kernel("busy")?;
    for mode in MODES {
        let graph = worker.capture(CaptureMode::default(), |capture| {
            // SAFETY: the kernel takes a number.
            unsafe { capture.launch(&busy, &LaunchConfig::linear(1, 32), &[&5_000_000u64]) }
        })?;
        let exec = graph.instantiate()?;
        stream
            .capture(mode, |_| {
                // SAFETY: the kernel uses no memory.
                unsafe { exec.launch(&worker)? };
                let before = scene.simulator.now();
                drop(exec);
                assert!(scene.simulator.now() - before >= Duration::from_millis(4));
                drop(graph.instantiate()?);
                Ok(())
            })
            .unwrap();
    }
    Ok(())
}

/// A buffer that cannot be freed in a stream's order comes back.
#[test]
fn a_free_that_is_refused_gives_the_buffer_back() -> Result<()> {
    let scene = Scene::new()?;
    let stream = scene.stream()?;
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    let buffer = pool.allocate(MIB)?;
    let address = buffer.address();
    let mut kept = None;
    stream.capture(CaptureMode::default(), |capture| {
        let refused = buffer.free_on(capture.stream()).unwrap_err();
        assert!(matches!(refused.error(), Error::InvalidArgument { .. }));
        assert!(refused.to_string().contains("in a capture"), "{refused}");
        kept = refused.into_parts().0;
        Ok(())
    })?;
    let buffer = kept.unwrap();
    assert_ne!(pool.allocate(MIB)?.address(), address);
    scene.busy(&stream, Duration::from_millis(5))?;
    buffer.free_on(&stream).unwrap();
    assert_ne!(
        pool.allocate(MIB)?.address(),
        address,
        "the stream still works"
    );
    stream.synchronize()?;
    assert_eq!(pool.allocate_on(&stream, MIB)?.address(), address);
    Ok(())
}

/// A stream of another device can be waited for like any other.
#[test]
fn a_buffer_is_fenced_by_a_stream_of_another_device() -> Result<()> {
    let simulator = Sim::new("2xh200@13.0")?;
    simulator.register_kernel_cost("busy", |_| BlockCost::busy(Duration::from_millis(5)));
    let driver = Driver::simulated(&simulator)?;
    let (here, there) = (driver.device(0)?, driver.device(1)?);
    let all = [there.sm_resource()?];
    let stream =
        GreenContext::from_resources(&all, None, GreenContextConfig::default())?.create_stream()?;
    let busy = Module::load_ptx(&there, PTX)?.kernel("busy")?;
    let pool = GpuMemoryPool::on(&here, 64 * MIB as u64)?;
    let buffer = pool.allocate(MIB)?;
    let address = buffer.address();
    // SAFETY: the kernel takes a number.
    unsafe { stream.launch(&busy, &LaunchConfig::linear(1, 32), &[&0u64])? };
    buffer.free_on(&stream).unwrap();
    assert_ne!(
        pool.allocate(MIB)?.address(),
        address,
        "the stream still works"
    );
    stream.synchronize()?;
    assert!(pool.trim()? > 0);
    Ok(())
}

/// A stream that joined a capture by waiting for an event of it is in the capture as well.
#[test]
fn a_stream_that_joined_a_capture_by_an_event_is_known_to_be_in_it() -> Result<()> {
    let scene = Scene::new()?;
    let (stream, other) = (scene.stream()?, scene.stream()?);
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    let mut buffer = pool.allocate(MIB)?;
    let mut pinned = pool.allocate_pinned::<u8>(16)?;
    let event = Event::new(&scene.device)?;
    let back = Event::new(&scene.device)?;
    stream.capture(CaptureMode::default(), |capture| {
        capture.stream().record(&event)?;
        other.wait(&event)?;
        let refused = |result: Result<()>| {
            assert!(
                matches!(result, Err(Error::InvalidArgument { name: "stream", .. })),
                "{result:?}"
            );
        };
        refused(buffer.fill_on(1, &other));
        refused(buffer.copy_from_pinned(&pinned, &other));
        refused(buffer.copy_to_pinned(&mut pinned, &other));
        refused(buffer.fence_on(&other));
        refused(pool.allocate_on(&other, 1).map(drop));
        other.record(&back)?;
        capture.stream().wait(&back)
    })?;
    // Nothing stays of it.
    buffer.fill_on(1, &other)?;
    buffer.copy_to_pinned(&mut pinned, &other)?;
    assert_eq!(pinned.as_slice()?, [1; 16]);
    Ok(())
}

/// A fence is noted while another thread waits for the buffer.
#[test]
fn fencing_waits_for_nobody() -> Result<()> {
    let scene = Scene::new()?;
    let (first, second) = (scene.stream()?, scene.stream()?);
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    let mut buffer = pool.allocate(MIB)?;
    buffer.fill_on(1, &first)?;
    let slow = "cuEventSynchronize=1000ms".parse().unwrap();
    scene.simulator.inject(slow);
    let buffer = &buffer;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| buffer.copy_to(&mut [0; 16]));
        std::thread::sleep(Duration::from_millis(100)); // the reader is within its wait then
        buffer.fence_on(&second).unwrap();
        assert!(!reader.is_finished(), "the fence waited for the reader");
        reader.join().unwrap().unwrap();
    });
    scene.simulator.assert_injections_fired();
    Ok(())
}

/// The memory that a pool has from the driver may be used in every stream: the allocation itself is waited for.
#[test]
fn the_drivers_own_allocation_is_waited_for() -> Result<()> {
    let scene = Scene::new()?;
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    let calls = scene.calls(|| pool.allocate(MIB).map(drop))?;
    let at = |name: &str| calls.iter().position(|call| *call == name).unwrap();
    assert!(
        at("cuMemAllocFromPoolAsync") < at("cuStreamSynchronize"),
        "{calls:?}"
    );
    Ok(())
}

/// A use that is noted while another thread waits for the earlier ones is not taken for one of those.
#[test]
fn a_use_that_comes_after_the_wait_is_not_forgotten() -> Result<()> {
    let scene = Scene::new()?;
    let stream = scene.stream()?;
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    let mut buffer = pool.allocate(MIB)?;
    let address = buffer.address();
    buffer.fill_on(1, &stream)?;
    // The second is the end of the wait: what was waited for is forgotten after it.
    let slow = Injection::slow("cuThreadExchangeStreamCaptureMode", Duration::from_secs(1));
    scene.simulator.inject(slow.unwrap().at(2));
    let waiting = &buffer;
    std::thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| waiting.copy_to(&mut [0; 16]));
        std::thread::sleep(Duration::from_millis(200)); // the reader is past its wait then
        scene.busy(&stream, Duration::from_secs(100))?;
        waiting.fence_on(&stream)?;
        assert!(!reader.is_finished());
        reader.join().unwrap()
    })?;
    scene.simulator.assert_injections_fired();
    drop(buffer);
    assert!(!stream.is_done()?);
    assert_ne!(pool.allocate(MIB)?.address(), address);
    Ok(())
}

/// What the crate allows its own calls beside a capture, it does not allow the client's after them.
#[test]
fn the_clients_own_calls_are_forbidden_as_before() -> Result<()> {
    let scene = Scene::new()?;
    let (stream, other) = (scene.stream()?, scene.stream()?);
    let pool = GpuMemoryPool::on(&scene.device, 64 * MIB as u64)?;
    let captured = stream.capture(CaptureMode::ThreadLocal, |_| {
        let mut buffer = pool.allocate(MIB)?;
        buffer.fill(1)?;
        buffer.fill_on(2, &other)?;
        buffer.copy_to(&mut [0; 16])?;
        drop(buffer);
        pool.trim()?;
        other.synchronize()
    });
    assert!(
        matches!(
            captured,
            Err(Error::CaptureFailed {
                call: "cuStreamSynchronize",
                ..
            })
        ),
        "{captured:?}"
    );
    Ok(())
}

//! Every driver call of the memory's made to fail in turn: once for each call of a good run, in which that
//! one call fails, and once more with all such calls failing from there on. Each run ends in success or a
//! typed error; the accounting is at zero after it; nothing is left behind but what the failed call itself
//! was to give back.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use crate::alone;
use cuda_green::{
    ContextPolicy, Driver, Error, GpuMemoryPool, GreenContext, Kernel, LaunchConfig, MemoryBudget,
    ModelNeeds, ModelSlots, Module, Result, Stream, kernels,
    sim::{BlockCost, Injection, Sim},
    sys::CUresult,
};

const MIB: usize = 1 << 20;

/// What must be back whatever failed: looked at where the run ends, early or not.
struct Accounts(MemoryBudget);

impl Drop for Accounts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!((self.0.used(), self.0.reserved()), (0, 0), "bytes are lost");
        }
    }
}

/// A simulated driver, on which the driver's pools may be wanting.
fn simulator(profile: &str, pools: bool) -> Sim {
    let simulator = Sim::new(profile).unwrap();
    if !pools {
        let refusal =
            Injection::fail("cuMemPoolCreate", CUresult::CUDA_ERROR_NOT_SUPPORTED).unwrap();
        simulator.inject(refusal.onwards(1));
    }
    simulator
}

fn use_memory(simulator: &Sim) -> Result<()> {
    let budget = MemoryBudget::new(512 << 20)?;
    // Dropped last, so all buffers and pools are gone.
    let _accounts = Accounts(budget.clone());
    let device = Driver::simulated(simulator)?.device(0)?;
    let pool = GpuMemoryPool::within(&device, &budget, 256 << 20)?;
    pool.on_device_pressure(|_| ())?;
    let stream = GreenContext::primary(&device, ContextPolicy::default())?.create_stream()?;
    let small = pool.allocate(5_000)?;
    let mut large = pool.allocate(50 * MIB)?;
    small.fill(1)?;
    small.copy_from(&[2; 100])?;
    large.fill_on(3, &stream)?;
    let mut pinned = pool.allocate_pinned::<u8>(100)?;
    large.copy_to_pinned(&mut pinned, &stream)?;
    assert_eq!(pinned.as_slice()?, [3; 100]);
    large.copy_from_pinned(&pinned, &stream)?;
    large.free_on(&stream)?;
    let mut again = pool.allocate_on(&stream, 50 * MIB)?;
    again.fill_on(4, &stream)?;
    drop(again);
    small.free_on(&stream)?;
    drop(pool.allocate(5_000)?);
    // Another size, for which what is idle goes back to the driver first.
    drop(pool.allocate(180 * MIB)?);
    let slots = ModelSlots::new(pool.child(200 << 20)?, 2)?;
    let needs = |bytes: usize| ModelNeeds {
        bytes: bytes as u64,
        priority: 0,
    };
    for (name, bytes) in [("a", 90 * MIB), ("b", 90 * MIB), ("c", 150 * MIB)] {
        let model = slots.get_or_load(name, needs(bytes), |pool| pool.allocate(bytes))?;
        model.copy_from(&[5])?;
    }
    slots.evict("c")?;
    pool.trim()?;
    stream.synchronize()
}

/// What a call gives back, and keeps when it fails. What pools have is given back once more.
fn gives_back(entry_point: &str) -> &'static [&'static str] {
    match entry_point {
        "cuDevicePrimaryCtxRelease_v2" => &["primary retain"],
        "cuStreamDestroy_v2" => &["stream"],
        "cuEventDestroy_v2" => &["event"],
        "cuMemFreeHost" => &["pinned host allocation"],
        // Freeing pinned memory needs a context, and cannot be done without.
        "cuCtxPushCurrent_v2" => &["pinned host allocation"],
        _ => &[],
    }
}

fn run(
    (profile, pools): (&str, bool),
    nth: u64,
    onwards: bool,
    entry_point: &str,
    code: CUresult,
) -> Option<String> {
    let simulator = simulator(profile, pools);
    let injection = if onwards {
        Injection::fail(entry_point, code).unwrap().onwards(nth)
    } else {
        Injection::fail("*", code).unwrap().at(nth)
    };
    simulator.inject(injection);
    let answer = match catch_unwind(AssertUnwindSafe(|| use_memory(&simulator))) {
        Ok(answer) => answer,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            return Some(format!("it panicked: {}", text.unwrap_or_default()));
        }
    };
    if code.is_sticky() {
        // A driver that is poisoned keeps what it has; the accounting was looked at.
        return None;
    }
    if onwards {
        // A driver that goes on refusing keeps what it has, and what could not be waited for stays as it is. Once it
        // refuses no more, what was put off is done.
        simulator.clear_injections();
        let again = use_memory(&simulator);
        let live = simulator.live_objects();
        let lost = ["pinned host allocation", "device allocation", "pool"];
        if live.objects.iter().any(|one| lost.contains(&one.kind)) {
            return Some(format!("memory is lost: {live}"));
        }
        return again
            .err()
            .map(|error| format!("the next try fails: {error}"));
    }
    let live = simulator.live_objects();
    let kept = gives_back(entry_point);
    let expected =
        |kind: &str| kept.contains(&kind) || (!kept.is_empty() && kind == "abandoned object");
    if live.objects.iter().any(|object| !expected(object.kind)) {
        return Some(format!("left behind: {live}; the answer was {answer:?}"));
    }
    simulator.clear_injections();
    use_memory(&simulator)
        .err()
        .map(|error| format!("the next try fails: {error}"))
}

fn each_call_fails(profile: &str, pools: bool) {
    let _alone = alone();
    let simulator = simulator(profile, pools);
    simulator.start_trace();
    use_memory(&simulator).unwrap();
    let trace = simulator.take_trace();
    simulator.assert_no_leaks();
    drop(simulator);
    let mut wrong = BTreeMap::new();
    let mut earlier: BTreeMap<&str, u64> = BTreeMap::new();
    for (call, nth) in trace.iter().zip(1..) {
        let of_its_kind = earlier.entry(call.entry_point).or_default();
        *of_its_kind += 1;
        for code in [
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            CUresult::CUDA_ERROR_INVALID_VALUE,
            CUresult::CUDA_ERROR_NOT_READY,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        ] {
            for onwards in [false, true] {
                let at = if onwards { *of_its_kind } else { nth };
                if let Some(what) = run((profile, pools), at, onwards, call.entry_point, code) {
                    wrong
                        .entry((call.entry_point, what))
                        .or_insert_with(Vec::new)
                        .push((nth, code.0));
                }
            }
        }
    }
    let count = trace.len();
    assert!(count > 50, "{count} calls");
    assert!(wrong.is_empty(), "{profile}, {count} calls: {wrong:#?}");
}

#[test]
fn with_the_drivers_pools() {
    each_call_fails("h200@13.0", true);
}

#[test]
fn on_an_old_driver() {
    each_call_fails("t4@11.4", true);
}

#[test]
fn on_a_device_without_pools() {
    each_call_fails("h200@13.0", false);
}

/// A buffer that is freed on a stream whose work cannot be fenced is freed after that work all the same.
#[test]
fn what_cannot_be_fenced_is_waited_for() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let scene = Busy::new(&simulator);
    let buffer = scene.pool.allocate(1000).unwrap();
    scene.busy();
    simulator
        .fail("cuEventCreate", 1, CUresult::CUDA_ERROR_OUT_OF_MEMORY)
        .unwrap();
    buffer.free_on(&scene.stream).unwrap();
    simulator.assert_injections_fired();
    assert!(scene.stream.is_done().unwrap());
}

/// Both buffers of a copy stay fenced where the fence of one fails: neither is looked at or handed out too early.
#[test]
fn a_copy_whose_fences_fail_is_in_use_until_its_end() {
    let _alone = alone();
    for calls in [1, 2] {
        let simulator = Sim::new("h200@13.0").unwrap();
        let scene = Busy::new(&simulator);
        let mut pinned = scene.pool.allocate_pinned::<u8>(100).unwrap();
        let mut buffer = scene.pool.allocate(100).unwrap();
        scene.busy();
        for entry_point in ["cuEventRecord", "cuStreamSynchronize"] {
            let code = CUresult::CUDA_ERROR_INVALID_VALUE;
            for nth in 1..=calls {
                simulator.fail(entry_point, nth, code).unwrap();
            }
        }
        let copied = buffer.copy_from_pinned(&pinned, &scene.stream);
        assert!(copied.is_err());
        simulator.assert_injections_fired();
        match pinned.as_mut_slice() {
            Ok(_) => assert!(scene.stream.is_done().unwrap()),
            Err(error) => assert!(matches!(error, Error::EndUnknown), "{error}"),
        }
        scene.stream.synchronize().unwrap();
    }
}

/// A stream with a second's work in it.
struct Busy {
    pool: GpuMemoryPool,
    stream: Stream,
    kernel: Kernel,
}

impl Busy {
    fn new(simulator: &Sim) -> Self {
        simulator.register_kernel_cost(kernels::BURN, |_| BlockCost::idle(Duration::from_secs(1)));
        let device = Driver::simulated(simulator).unwrap().device(0).unwrap();
        let context = GreenContext::primary(&device, ContextPolicy::default()).unwrap();
        let module = Module::load_ptx(&device, kernels::PTX).unwrap();
        Self {
            pool: GpuMemoryPool::on(&device, 512 << 20).unwrap(),
            stream: context.create_stream().unwrap(),
            kernel: module.kernel(kernels::BURN).unwrap(),
        }
    }

    fn busy(&self) {
        let shape = LaunchConfig::linear(1, 32);
        // SAFETY: a simulated kernel without a body touches nothing.
        unsafe { self.stream.launch(&self.kernel, &shape, &[&0u64, &0u32]) }.unwrap();
        assert!(!self.stream.is_done().unwrap());
    }
}

/// A pool's end is put off where a stream may still use some of its memory and cannot be waited for.
#[test]
fn a_pool_ends_after_the_last_use_of_its_memory() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let Busy {
        pool,
        stream,
        kernel,
    } = Busy::new(&simulator);
    for refused in [
        "cuEventSynchronize",
        "cuMemFreeAsync",
        "cuStreamSynchronize",
        "cuMemPoolDestroy",
    ] {
        let fresh = GpuMemoryPool::on(pool.device(), 512 << 20).unwrap();
        let scene = Busy {
            pool: fresh,
            stream: stream.context().create_stream().unwrap(),
            kernel: kernel.clone(),
        };
        let before = simulator.live_objects();
        let (small, large) = (
            scene.pool.allocate(1000).unwrap(),
            scene.pool.allocate(50 * MIB).unwrap(),
        );
        scene.busy();
        small.free_on(&scene.stream).unwrap();
        large.free_on(&scene.stream).unwrap();
        let Busy {
            pool: ending,
            stream: worker,
            ..
        } = scene;
        let code = CUresult::CUDA_ERROR_INVALID_VALUE;
        simulator.inject(Injection::fail(refused, code).unwrap().onwards(1));
        drop(ending);
        simulator.clear_injections();
        let live = simulator.live_objects();
        assert_eq!(live.pools, before.pools, "{refused}: {live}");
        if refused == "cuEventSynchronize" {
            assert!(!worker.is_done().unwrap());
            assert_eq!(
                live.device_allocations,
                before.device_allocations + 2,
                "{live}"
            );
        }
        // What was put off is tried again by whoever does something slow.
        pool.trim().unwrap();
        let live = simulator.live_objects();
        assert_eq!(
            (live.pools, live.device_allocations),
            (before.pools - 1, before.device_allocations),
            "{refused}: {live}"
        );
        assert!(worker.is_done().unwrap(), "{refused}");
    }
    drop((pool, stream, kernel));
    simulator.assert_no_leaks();
}

/// An allocation that can neither be waited for nor freed is freed later.
#[test]
fn an_allocation_that_the_driver_does_not_take_back_is_not_forgotten() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    for trimmed in [false, true] {
        let pool = GpuMemoryPool::on(&device, 512 << 20).unwrap();
        for entry_point in ["cuStreamSynchronize", "cuMemFreeAsync"] {
            simulator
                .fail(entry_point, 1, CUresult::CUDA_ERROR_INVALID_VALUE)
                .unwrap();
        }
        assert!(pool.allocate(50 * MIB).is_err());
        simulator.assert_injections_fired();
        assert_eq!(simulator.live_objects().device_allocations, 1);
        if trimmed {
            pool.trim().unwrap();
            assert_eq!(simulator.live_objects().device_allocations, 0);
        }
        drop(pool.allocate(50 * MIB).unwrap());
        drop(pool);
        assert_eq!(simulator.live_objects().device_allocations, 0);
    }
    drop(device);
    simulator.assert_no_leaks();
}

/// A copy that waits, where the driver refuses to wait and to ask. Pageable memory is not used after the driver's call,
/// so an error comes back; pinned memory may be.
#[test]
fn a_copy_to_pinned_memory_is_waited_for_whatever_is_refused() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    {
        let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
        let pool = GpuMemoryPool::on(&device, 64 << 20).unwrap();
        let buffer = pool.allocate(MIB).unwrap();
        buffer.fill(1).unwrap();
        let refuse = |count| {
            for entry_point in ["cuStreamSynchronize", "cuStreamQuery"] {
                for nth in 1..=count {
                    simulator
                        .fail(entry_point, nth, CUresult::CUDA_ERROR_INVALID_VALUE)
                        .unwrap();
                }
            }
        };
        // Where it can be asked about, it has ended.
        simulator
            .fail("cuStreamSynchronize", 1, CUresult::CUDA_ERROR_INVALID_VALUE)
            .unwrap();
        buffer.copy_to(&mut [0; 1000]).unwrap();
        simulator.assert_injections_fired();
        let mut pinned = pool.allocate_pinned::<u8>(1000).unwrap();
        refuse(20);
        buffer.copy_to(pinned.as_mut_slice().unwrap()).unwrap();
        simulator.assert_injections_fired();
        assert_eq!(pinned.as_slice().unwrap(), [1; 1000]);

        let streams = simulator.live_objects().streams;
        refuse(20);
        assert!(buffer.copy_to(&mut [0; 1000]).is_err());
        assert_eq!(
            simulator.live_objects().streams,
            streams,
            "kept, as a copy may be in it"
        );
        simulator.clear_injections();
        // Not in the same stream.
        buffer.copy_to(&mut [0; 1000]).unwrap();
        assert_eq!(simulator.live_objects().streams, streams + 1);
        // What was put off is done by whoever does something slow.
        pool.trim().unwrap();
        assert_eq!(simulator.live_objects().streams, streams);
    }
    simulator.assert_no_leaks();
}

/// Memory under a copy of which nothing tells the end is not used again.
#[test]
fn memory_under_a_copy_of_unknown_end_is_kept() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let pool = GpuMemoryPool::on(&device, 64 << 20).unwrap();
    let buffer = pool.allocate(MIB).unwrap();
    let address = buffer.address();
    for entry_point in ["cuStreamSynchronize", "cuStreamQuery", "cuEventRecord"] {
        let refusal = Injection::fail(entry_point, CUresult::CUDA_ERROR_INVALID_VALUE);
        simulator.inject(refusal.unwrap().onwards(1));
    }
    assert!(buffer.fill(2).is_err());
    simulator.clear_injections();
    assert!(matches!(buffer.copy_to(&mut [0]), Err(Error::EndUnknown)));
    drop(buffer);
    assert_ne!(pool.allocate(MIB).unwrap().address(), address);
    assert_eq!(pool.metrics().pending, MIB as u64);
}

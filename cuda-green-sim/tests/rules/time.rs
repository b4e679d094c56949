//! Virtual time, through the driver's functions: the cost of kernels, the order of waits, and the trends of the
//! latencies that were measured on an H200.

use std::{ffi::c_void, ptr, time::Duration};

use cuda_green_sim::{BlockCost, Sim};
use cuda_green_sys::*;

use crate::client::*;

/// Kernels whose blocks keep an SM busy for the nanoseconds that their argument states.
const BUSY: &std::ffi::CStr = c".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry busy(.param .u64 ns) { ret; }\n\
    .visible .entry cuda_green_burn(.param .u64 out, .param .u32 rounds) { ret; }\n";

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

struct Gpu {
    client: Client,
    busy: CUfunction,
    burn: CUfunction,
}

impl Gpu {
    fn new() -> Self {
        let client = Client::new("h200@13.0");
        client.sim.register_kernel_cost("busy", |launch| {
            BlockCost::busy(Duration::from_nanos(launch.arg_u64(0).unwrap()))
        });
        let (mut module, mut busy, mut burn) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let api = &client.api;
        unsafe {
            let code = api.cuModuleLoadData(&mut module, BUSY.as_ptr().cast());
            assert_eq!(code.unwrap(), OK);
            let code = api.cuModuleGetFunction(&mut busy, module, c"busy".as_ptr());
            assert_eq!(code.unwrap(), OK);
            let code = api.cuModuleGetFunction(&mut burn, module, c"cuda_green_burn".as_ptr());
            assert_eq!(code.unwrap(), OK);
        }
        Self { client, busy, burn }
    }

    fn sim(&self) -> &Sim {
        &self.client.sim
    }

    /// Launches blocks of 1024 threads, two of which fit on an SM at once.
    fn launch(&self, stream: CUstream, blocks: u32, ns: u64) {
        let mut ns = ns;
        let mut args: [*mut c_void; 1] = [(&raw mut ns).cast()];
        self.run(self.busy, stream, blocks, &mut args);
    }

    fn run(&self, function: CUfunction, stream: CUstream, blocks: u32, args: &mut [*mut c_void]) {
        let params = args.as_mut_ptr();
        let none = ptr::null_mut();
        let code = unsafe {
            self.client
                .api
                .cuLaunchKernel(function, blocks, 1, 1, 1024, 1, 1, 0, stream, params, none)
        };
        assert_eq!(code.unwrap(), OK);
    }

    fn synchronize(&self, stream: CUstream) {
        assert_eq!(
            unsafe { self.client.api.cuStreamSynchronize(stream).unwrap() },
            OK
        );
    }

    fn is_done(&self, stream: CUstream) -> bool {
        match unsafe { self.client.api.cuStreamQuery(stream).unwrap() } {
            OK => true,
            CUresult::CUDA_ERROR_NOT_READY => false,
            code => unreachable!("{code}"),
        }
    }

    /// Creates a stream of the primary context.
    fn stream(&self, flags: u32, priority: i32) -> CUstream {
        let mut stream = ptr::null_mut();
        let api = &self.client.api;
        let code = unsafe { api.cuStreamCreateWithPriority(&mut stream, flags, priority) };
        assert_eq!(code.unwrap(), OK);
        stream
    }

    /// Creates green contexts over groups of 32 SMs.
    fn partitions<const N: usize>(&self) -> [CUgreenCtx; N] {
        let split = self
            .client
            .split(&self.client.device_sms(), N as u32, 0, 32);
        let groups = split.unwrap().groups;
        std::array::from_fn(|index| self.client.green(&groups[index..=index]).unwrap())
    }

    fn event(&self) -> CUevent {
        let mut event = ptr::null_mut();
        assert_eq!(
            unsafe { self.client.api.cuEventCreate(&mut event, 0).unwrap() },
            OK
        );
        event
    }

    /// Returns the time that the host waits for this, in microseconds of virtual time.
    fn microseconds(&self, work: impl FnOnce()) -> u64 {
        let before = self.sim().now();
        work();
        (self.sim().now() - before).as_micros() as u64
    }
}

/// Launching and synchronising `blocks` blocks of 20,000 rounds takes the time that was measured on an H200.
#[test]
fn the_built_in_load_takes_what_was_measured() {
    let gpu = Gpu::new();
    let stream = gpu.stream(1, 0);
    for (blocks, measured) in [
        (1, 155.2),
        (16, 154.2),
        (128, 154.8),
        (256, 295.8),
        (512, 578.8),
        (1024, 1145.2),
    ] {
        let took = gpu.microseconds(|| {
            let (mut out, mut rounds) = (0_u64, 20_000_u32);
            let mut args: [*mut c_void; 2] = [(&raw mut out).cast(), (&raw mut rounds).cast()];
            gpu.run(gpu.burn, stream, blocks, &mut args);
            gpu.synchronize(stream);
        }) as f64;
        let off = (took - measured).abs() / measured;
        assert!(off < 0.05, "{blocks} blocks: {took} us, not {measured}");
    }
}

#[test]
fn work_without_a_cost_takes_no_time() {
    let gpu = Gpu::new();
    let stream = gpu.stream(1, 0);
    gpu.launch(stream, 1000, 0);
    assert!(gpu.is_done(stream));
    gpu.synchronize(stream);
    assert_eq!(gpu.sim().now(), Duration::ZERO);
    gpu.sim().advance(Duration::from_secs(1));
    assert_eq!(gpu.sim().now(), Duration::from_secs(1));
}

#[test]
fn a_stream_is_busy_until_its_work_is_done() {
    let gpu = Gpu::new();
    let stream = gpu.stream(1, 0);
    gpu.launch(stream, 1, 100 * US);
    let mut asked = 0;
    while !gpu.is_done(stream) {
        asked += 1;
    }
    assert_eq!(asked, 100, "each question takes a microsecond");
    // Two in one stream run one after the other, two in two streams concurrently.
    gpu.launch(stream, 1, 100 * US);
    gpu.launch(stream, 1, 100 * US);
    assert_eq!(gpu.microseconds(|| gpu.synchronize(stream)) / 100, 2);
    let other = gpu.stream(1, 0);
    gpu.launch(stream, 1, 100 * US);
    gpu.launch(other, 1, 100 * US);
    assert_eq!(gpu.microseconds(|| gpu.synchronize(stream)) / 100, 1);
    assert!(gpu.microseconds(|| gpu.synchronize(other)) < 10);
    assert!(gpu.is_done(other));
}

/// Registered host functions still take effect at the launch.
#[test]
fn effects_are_there_after_synchronising() {
    let gpu = Gpu::new();
    let address = gpu.client.alloc(8).unwrap();
    gpu.client.sim.register_kernel("busy", move |launch| {
        let _ = launch.atomic_add_u32(address, 1);
    });
    let stream = gpu.stream(1, 0);
    for _ in 0..10 {
        gpu.launch(stream, 1, MS);
    }
    gpu.synchronize(stream);
    let mut count = 0_u32;
    let to = (&raw mut count).cast();
    let code = unsafe { gpu.client.api.cuMemcpyDtoH_v2(to, address, 4) };
    assert_eq!((code.unwrap(), count), (OK, 10));
}

#[test]
fn events_tell_virtual_time() {
    let gpu = Gpu::new();
    let api = &gpu.client.api;
    let stream = gpu.stream(1, 0);
    let (start, end, idle) = (gpu.event(), gpu.event(), gpu.event());
    let mut milliseconds = 0.0;
    unsafe {
        assert_eq!(api.cuEventRecord(start, stream).unwrap(), OK);
        gpu.launch(stream, 132, 7 * MS);
        assert_eq!(api.cuEventRecord(end, stream).unwrap(), OK);
        let code = api.cuEventQuery(end).unwrap();
        assert_eq!(code, CUresult::CUDA_ERROR_NOT_READY);
        let code = api.cuEventElapsedTime(&mut milliseconds, start, end);
        assert_eq!(code.unwrap(), CUresult::CUDA_ERROR_NOT_READY);
        assert_eq!(api.cuEventSynchronize(end).unwrap(), OK);
        assert_eq!(api.cuEventQuery(end).unwrap(), OK);
        let code = api.cuEventElapsedTime(&mut milliseconds, start, end);
        assert_eq!(code.unwrap(), OK);
        assert!((milliseconds - 7.0).abs() < 0.01, "{milliseconds}");
        assert_eq!(api.cuEventQuery(idle).unwrap(), OK);
    }
}

#[test]
fn a_hand_off_waits_on_the_gpu_and_not_on_the_host() {
    let gpu = Gpu::new();
    let api = &gpu.client.api;
    let [old, new] = gpu.partitions();
    let [from, before] = [old, new].map(|green| gpu.client.stream(green));
    let event = gpu.event();
    let host = gpu.microseconds(|| unsafe {
        gpu.launch(from, 32, 10 * MS);
        assert_eq!(api.cuGreenCtxRecordEvent(old, event).unwrap(), OK);
        assert_eq!(api.cuGreenCtxWaitEvent(new, event).unwrap(), OK);
    });
    assert!(host < 10);
    // In streams that existed before the hand-off and in those created after it.
    let after = gpu.client.stream(new);
    let took = [before, after].map(|stream| {
        gpu.launch(stream, 1, 100 * US);
        gpu.microseconds(|| gpu.synchronize(stream))
    });
    assert!((10_000..10_200).contains(&took[0]), "{took:?}");
    assert!(took[1] < 200, "{took:?}");
    // Once it is over, no work waits any longer.
    gpu.launch(before, 1, 100 * US);
    assert!(gpu.microseconds(|| gpu.synchronize(before)) < 110);
}

/// A wait for a context includes the work of its destroyed streams; so does a wait for the primary context, and one
/// in the default stream after a blocking stream.
#[test]
fn the_work_of_destroyed_streams_is_waited_for() {
    let gpu = Gpu::new();
    let api = &gpu.client.api;
    let event = gpu.event();
    let [green, other] = gpu.partitions();
    let busy = |stream| {
        gpu.launch(stream, 1, 10 * MS);
        assert_eq!(unsafe { api.cuStreamDestroy_v2(stream).unwrap() }, OK);
    };
    let recorded = |code: CUresult| {
        assert_eq!(code, OK);
        gpu.microseconds(|| unsafe { assert_eq!(api.cuEventSynchronize(event).unwrap(), OK) })
    };
    busy(gpu.client.stream(green));
    assert!(recorded(unsafe { api.cuGreenCtxRecordEvent(other, event).unwrap() }) < 10);
    assert!(recorded(unsafe { api.cuGreenCtxRecordEvent(green, event).unwrap() }) > 9_000);
    for stream in [gpu.client.stream(green), gpu.stream(1, 0)] {
        busy(stream);
        let primary = gpu.client.primary;
        assert!(recorded(unsafe { api.cuCtxRecordEvent(primary, event).unwrap() }) > 9_000);
    }
    busy(gpu.stream(0, 0));
    let default = ptr::null_mut();
    assert!(recorded(unsafe { api.cuEventRecord(event, default).unwrap() }) > 9_000);
    // A destroyed context's work continues as well, including that of streams that ended with it.
    gpu.launch(gpu.client.stream(green), 1, 10 * MS);
    assert_eq!(gpu.client.destroy(green), OK);
    let primary = gpu.client.primary;
    assert!(recorded(unsafe { api.cuCtxRecordEvent(primary, event).unwrap() }) > 9_000);
}

/// A copy from pageable memory is work of the context, although it is not done when its call returns.
#[test]
fn the_end_of_a_context_s_work_follows_its_copies() {
    let gpu = Gpu::new();
    let api = &gpu.client.api;
    let [green, other] = gpu.partitions();
    let (event, bytes) = (gpu.event(), vec![1_u8; 1 << 20]);
    let address = gpu.client.alloc(bytes.len()).unwrap();
    let copied = |of, record: &dyn Fn() -> CUresult| {
        let context = gpu.client.context(of);
        unsafe {
            assert_eq!(api.cuCtxPushCurrent_v2(context).unwrap(), OK);
            let from = bytes.as_ptr().cast();
            let code = api.cuMemcpyHtoD_v2(address, from, bytes.len());
            assert_eq!(code.unwrap(), OK);
            assert_eq!(api.cuCtxPopCurrent_v2(ptr::null_mut()).unwrap(), OK);
        }
        gpu.microseconds(|| unsafe {
            assert_eq!(record(), OK);
            assert_eq!(api.cuEventSynchronize(event).unwrap(), OK);
        })
    };
    let record = |green| move || unsafe { api.cuGreenCtxRecordEvent(green, event).unwrap() };
    assert!(copied(green, &record(green)) >= 20);
    assert!(copied(green, &record(other)) < 20);
    let primary = gpu.client.primary;
    let whole = || unsafe { api.cuCtxRecordEvent(primary, event).unwrap() };
    assert!(copied(green, &whole) >= 20);
}

/// In a green context, neither do streams wait for the default stream nor does it wait for them, whatever their
/// flags.
#[test]
fn a_green_context_s_default_stream_waits_for_nobody() {
    let gpu = Gpu::new();
    let api = &gpu.client.api;
    let address = gpu.client.alloc(8).unwrap();
    let default = ptr::null_mut();
    let copied = || {
        let mut bytes = 0_u64;
        let to = (&raw mut bytes).cast();
        gpu.microseconds(|| unsafe { assert_eq!(api.cuMemcpyDtoH_v2(to, address, 8).unwrap(), OK) })
    };
    let [green] = gpu.partitions();
    let context = gpu.client.context(green);
    for (top, ordered) in [(gpu.client.primary, true), (context, false)] {
        unsafe { assert_eq!(api.cuCtxPushCurrent_v2(top).unwrap(), OK) };
        let stream = gpu.stream(0, 0);
        for (first, second) in [(stream, default), (default, stream)] {
            gpu.launch(first, 1, 10 * MS);
            gpu.launch(second, 1, US);
            let took = gpu.microseconds(|| gpu.synchronize(second));
            assert_eq!(took > 9_000, ordered, "{took}");
            gpu.synchronize(first);
        }
        gpu.launch(stream, 1, 10 * MS);
        assert_eq!(copied() > 9_000, ordered);
        gpu.synchronize(stream);
        unsafe { assert_eq!(api.cuCtxPopCurrent_v2(ptr::null_mut()).unwrap(), OK) };
    }
}

#[test]
fn the_default_stream_waits_for_blocking_streams_only() {
    let gpu = Gpu::new();
    let (blocking, apart) = (gpu.stream(0, 0), gpu.stream(1, 0));
    let default = ptr::null_mut();
    gpu.launch(blocking, 1, MS);
    gpu.launch(apart, 1, 20 * MS);
    gpu.launch(default, 1, MS);
    gpu.launch(blocking, 1, MS);
    let took = gpu.microseconds(|| gpu.synchronize(blocking));
    assert!((2_990..3_010).contains(&took), "{took}");
    assert!(!gpu.is_done(apart));
    let took = gpu.microseconds(|| unsafe {
        assert_eq!(gpu.client.api.cuCtxSynchronize().unwrap(), OK);
    });
    assert!((16_900..17_100).contains(&took), "{took}");
}

/// Among waiting blocks, those of higher priority start first; running blocks are not preempted.
#[test]
fn priority_helps_against_short_blocks_only() {
    let gpu = Gpu::new();
    let (background, equal, urgent) = (gpu.stream(1, 0), gpu.stream(1, 0), gpu.stream(1, -5));
    let took = |stream, blocks, ns| {
        // Blocks that take all SMs for 100 ms in total.
        gpu.launch(background, blocks, ns);
        gpu.launch(stream, 132, 50 * US);
        let took = gpu.microseconds(|| gpu.synchronize(stream));
        gpu.synchronize(background);
        took
    };
    let short = 264 * 250;
    assert!((99_000..101_000).contains(&took(equal, short, 200 * US)));
    assert!(took(urgent, short, 200 * US) < 1_000);
    for stream in [equal, urgent] {
        assert!((99_000..101_000).contains(&took(stream, 264, 50 * MS)));
    }
}

#[test]
fn a_partition_is_as_fast_as_it_has_sms() {
    let gpu = Gpu::new();
    let [green] = gpu.partitions();
    let stream = gpu.client.stream(green);
    let took = |stream| {
        gpu.launch(stream, 132, 100 * US);
        gpu.microseconds(|| gpu.synchronize(stream))
    };
    let whole = gpu.stream(1, 0);
    assert!((100..110).contains(&took(whole)), "one block on each");
    assert!((500..510).contains(&took(stream)), "up to five on each");
}

/// A grid of two thousand million blocks costs the model no more than a small one.
#[test]
fn huge_grids_are_summed_up() {
    let gpu = Gpu::new();
    let stream = gpu.stream(1, 0);
    let blocks = i32::MAX as u32;
    gpu.launch(stream, blocks, US);
    let took = gpu.microseconds(|| gpu.synchronize(stream));
    let exact = u64::from(blocks) / 132;
    assert!(took.abs_diff(exact) < exact / 50, "{took} us, not {exact}");
}

/// Returns the latencies of requests of 256 blocks beside a flood of kernels, every second of which is long and
/// leaves no room. `flood` may be the request's own context.
fn latencies(
    flood: Option<&dyn Fn(&Gpu) -> CUstream>,
    request: &dyn Fn(&Gpu) -> CUstream,
) -> [u64; 3] {
    const REQUESTS: usize = 500;
    let gpu = Gpu::new();
    let request = request(&gpu);
    let flood = flood.map(|flood| flood(&gpu));
    let mut filled = 0;
    let mut took: Vec<u64> = (0..REQUESTS)
        .map(|_| {
            if let Some(flood) = flood {
                // The flood is always one kernel ahead.
                while filled < 2 || gpu.is_done(flood) {
                    let (blocks, ns) = [(132, 2 * MS), (264, 8 * MS)][filled % 2];
                    gpu.launch(flood, blocks, ns);
                    filled += 1;
                }
            }
            gpu.microseconds(|| {
                gpu.launch(request, 256, 27 * US);
                gpu.synchronize(request);
            })
        })
        .collect();
    took.sort_unstable();
    [
        took[REQUESTS / 2],
        took[REQUESTS * 99 / 100],
        took[REQUESTS - 1],
    ]
}

/// The model reproduces the trends of the latencies that were measured on an H200, in microseconds at p50, p99 and
/// maximum: alone 64, 69, 112; alone in 32 SMs 213, 216, 234; two plain streams 112, 16,338, 16,386; priorities the
/// same; flood in another partition 214, 219, 239; flood in the primary context 398, 18,198, 18,239.
#[test]
fn latencies_have_the_measured_shape() {
    let plain = |gpu: &Gpu| gpu.stream(1, 0);
    let urgent = |gpu: &Gpu| gpu.stream(1, -5);
    // These are parts of one split, because parts of two splits may share SMs.
    let first = |gpu: &Gpu| gpu.client.stream(gpu.partitions::<2>()[0]);
    let second = |gpu: &Gpu| gpu.client.stream(gpu.partitions::<2>()[1]);
    let alone = latencies(None, &plain);
    let in_partition = latencies(None, &first);
    let shared = latencies(Some(&plain), &plain);
    let priorities = latencies(Some(&plain), &urgent);
    let partitioned = latencies(Some(&second), &first);
    let primary = latencies(Some(&plain), &first);
    println!("alone {alone:?}, in 32 SMs {in_partition:?}, shared {shared:?}");
    println!("priorities {priorities:?}, partitioned {partitioned:?}, primary {primary:?}");
    assert!((55..75).contains(&alone[1]) && (200..235).contains(&in_partition[1]));
    // Beside a flood, the median stays below 20 times that of an idle device, but p99 is above 100 times.
    for flooded in [shared, priorities, primary] {
        assert!(flooded[1] > 100 * alone[1], "{flooded:?}");
        assert!(flooded[0] < 20 * alone[0], "{flooded:?}");
    }
    // In a separate partition: as if it were alone.
    assert_eq!(partitioned, in_partition);
}

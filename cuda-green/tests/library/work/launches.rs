//! Launches with attributes, and what a refused one tells. On the simulator, whose rules the conformance cases
//! hold against a GPU.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use cuda_green::{
    CaptureMode, CudaDevice, Driver, Error, GpuMemoryPool, GreenContext, Kernel, KernelArg,
    LaunchConfig, Module, PinnedBuffer, SmPartitionManager, Stream, kernels, planner,
    sim::Sim,
    sys::{CUfunction_attribute, CUresult},
};

struct Ready {
    simulator: Sim,
    device: CudaDevice,
    stream: Stream,
    kernel: Kernel,
    /// Launches that came to the device.
    launched: Arc<AtomicU64>,
}

const NO_ARGS: [&dyn KernelArg; 2] = [&0_u64, &0_u32];

impl Ready {
    fn new(profile: &str) -> Self {
        let simulator = Sim::new(profile).unwrap();
        let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
        let launched = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&launched);
        simulator.register_kernel(kernels::BURN, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let manager = SmPartitionManager::on(&device).unwrap();
        manager.init_quad_partition().unwrap();
        let context: GreenContext = manager
            .get_context(cuda_green::ContextId::Embedding)
            .unwrap();
        let stream = context.create_stream().unwrap();
        let kernel = Module::load_ptx(&device, kernels::PTX).unwrap();
        let kernel = kernel.kernel(kernels::BURN).unwrap();
        Self {
            simulator,
            device,
            stream,
            kernel,
            launched,
        }
    }

    fn launch(&self, config: LaunchConfig) -> cuda_green::Result<()> {
        // SAFETY: the kernel takes an address that it never writes, and a number of rounds.
        unsafe { self.stream.launch(&self.kernel, &config, &NO_ARGS) }
    }

    /// The refusal's text, and whether the code is this one.
    fn refused(&self, config: LaunchConfig, expected: CUresult) -> String {
        let error = self.launch(config).unwrap_err();
        match &error {
            Error::LaunchRefused { code, kernel, .. } => {
                assert_eq!((*code, kernel.as_str()), (expected, kernels::BURN));
            }
            other => panic!("{other}"),
        }
        error.to_string()
    }
}

#[test]
fn a_plain_launch_is_one_plain_call() {
    let ready = Ready::new("h200@13.0");
    let before = ready.simulator.calls();
    ready.launch(LaunchConfig::linear(4, 32)).unwrap();
    assert_eq!(ready.simulator.calls() - before, 1);
}

#[test]
fn large_shared_memory_is_asked_for_once_and_never_taken_back() {
    let ready = Ready::new("h200@13.0");
    let shared = |bytes| LaunchConfig::linear(1, 32).shared_bytes(bytes);
    ready.launch(shared(100 << 10)).unwrap();
    // Another handle of the same function asks for less.
    let same = ready.kernel.module().kernel(kernels::BURN).unwrap();
    // SAFETY: as in `Ready::launch`.
    unsafe { ready.stream.launch(&same, &shared(64 << 10), &NO_ARGS) }.unwrap();
    let before = ready.simulator.calls();
    ready.launch(shared(100 << 10)).unwrap();
    assert_eq!(ready.simulator.calls() - before, 1);
    let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(ready.kernel.attribute(most).unwrap(), 100 << 10);
    assert_eq!(ready.launched.load(Ordering::Relaxed), 3);
    let text = ready.refused(shared(300 << 10), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(
        text.contains("307200 bytes") && text.contains("at most 232448 bytes"),
        "{text}"
    );
    // Foreign code has raised it further: that stays.
    let raw = ready.kernel.module().kernel(kernels::SM_IDS).unwrap();
    let api = ready.device.driver().api();
    // SAFETY: the function is live.
    let raised = unsafe { api.cuFuncSetAttribute(raw.raw(), most, 200 << 10) };
    assert_eq!(raised.unwrap(), CUresult::CUDA_SUCCESS);
    // SAFETY: the kernel takes an address, a length of nothing and a time.
    unsafe {
        ready
            .stream
            .launch(&raw, &shared(60 << 10), &[&0_u64, &0_u32, &0_u32])
    }
    .unwrap();
    assert_eq!(raw.attribute(most).unwrap(), 200 << 10);
}

#[test]
fn clusters_fit_as_the_stream_tells() {
    for profile in ["h200@12.4", "h200@12.5", "h200@13.0", "b200@13.3"] {
        let ready = Ready::new(profile);
        let config = LaunchConfig::linear(720, 128);
        let largest = ready
            .stream
            .max_cluster_size(&ready.kernel, &config)
            .unwrap();
        assert!(largest >= 2, "{profile}");
        for size in 1..=20_u32 {
            let config = LaunchConfig::linear(720 * size, 128).cluster([size, 1, 1]);
            match ready.stream.max_active_clusters(&ready.kernel, &config) {
                Ok(fitting) => {
                    assert_eq!(
                        fitting > 0,
                        ready.launch(config).is_ok(),
                        "{profile} {size}"
                    );
                    assert!(fitting > 0 || size > largest, "{profile} {size}");
                }
                Err(Error::LaunchRefused { .. }) => assert!(size > 8, "{profile} {size}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_partition_without_large_clusters_says_so() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = SmPartitionManager::<&str>::with_ids(&device).unwrap();
    let exact = planner::PartitionRequest::target(22).exact();
    manager
        .create_partitions(&[("small", exact, Default::default())])
        .unwrap();
    let context = manager.get_context("small").unwrap();
    let stream = context.create_stream().unwrap();
    let module = Module::load_ptx(&device, kernels::PTX).unwrap();
    let kernel = module.kernel(kernels::BURN).unwrap();
    let config = LaunchConfig::linear(8, 32);
    assert_eq!(stream.max_cluster_size(&kernel, &config).unwrap(), 2);
    let four = config.cluster([4, 1, 1]);
    assert_eq!(stream.max_active_clusters(&kernel, &four).unwrap(), 0);
    // SAFETY: the kernel takes an address that it never writes, and a number of rounds.
    let error = unsafe { stream.launch(&kernel, &four, &NO_ARGS) }.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cuLaunchKernelEx refused to launch cuda_green_burn (grid 8×1×1, block 32×1×1, shared memory 0 bytes, \
         cluster 4×1×1): CUDA_ERROR_INVALID_CLUSTER_SIZE (912): a thread-block cluster of this size does not fit; \
         on the 22 SMs of the stream's context a cluster has at most 2 blocks"
            .replace("a thread-block cluster of this size does not fit", CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE.description())
    );
}

#[test]
fn where_there_are_no_clusters_the_driver_is_not_asked() {
    let ready = Ready::new("a100@12.4");
    let config = LaunchConfig::linear(8, 32);
    assert_eq!(
        ready
            .stream
            .max_cluster_size(&ready.kernel, &config)
            .unwrap(),
        1
    );
    let before = ready.simulator.calls();
    let error = ready.launch(config.cluster([2, 1, 1])).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidArgument {
                name: "cluster",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(ready.simulator.calls(), before);
    let zero = Ready::new("h200@13.0")
        .launch(config.cluster([2, 0, 1]))
        .unwrap_err();
    assert!(
        matches!(
            zero,
            Error::InvalidArgument {
                name: "cluster",
                ..
            }
        ),
        "{zero}"
    );
    // A driver from before launches had attributes.
    let old = Ready::new("t4@11.4")
        .launch(config.cooperative())
        .unwrap_err();
    assert!(matches!(old, Error::MissingEntryPoint(_)), "{old}");
}

#[test]
fn a_refused_shape_names_its_limit() {
    let ready = Ready::new("h200@13.0");
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    for (config, limit) in [
        (LaunchConfig::linear(0, 32), "at least 1"),
        (
            LaunchConfig::new([1, 65_536, 1], [1; 3]),
            "a grid has at most 65535 in y",
        ),
        (
            LaunchConfig::new([1; 3], [1, 1, 65]),
            "a block has at most 64 in z",
        ),
        (
            LaunchConfig::new([1; 3], [64, 32, 1]),
            "2048 threads, but this kernel allows at most 1024",
        ),
    ] {
        let text = ready.refused(config, invalid);
        assert!(
            text.contains(limit) && text.contains(&config.to_string()),
            "{text}"
        );
    }
    let text = ready.refused(
        LaunchConfig::linear(7, 32).cluster([2, 1, 1]),
        CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE,
    );
    assert!(text.contains("a multiple of the cluster"), "{text}");
}

#[test]
fn cooperative_launches_that_fit_go_through() {
    let ready = Ready::new("h200@13.0");
    let config = LaunchConfig::linear(1, 256).cooperative();
    let most = ready
        .stream
        .max_cooperative_blocks(&ready.kernel, &config)
        .unwrap();
    let sms = u64::from(ready.stream.context().sm_count());
    assert_eq!(most, 8 * sms);
    ready
        .launch(LaunchConfig::linear(most as u32, 256).cooperative())
        .unwrap();
    let large = config.shared_bytes(200 << 10);
    assert_eq!(
        ready
            .stream
            .max_cooperative_blocks(&ready.kernel, &large)
            .unwrap(),
        sms
    );
    // In clusters, too: those of one partition are resident at once.
    let pairs = LaunchConfig::linear(2, 256)
        .cluster([2, 1, 1])
        .cooperative();
    let most = ready
        .stream
        .max_cooperative_blocks(&ready.kernel, &pairs)
        .unwrap();
    assert!(most > 0 && most.is_multiple_of(2), "{most}");
}

#[test]
fn launches_with_attributes_are_captured() {
    let ready = Ready::new("h200@13.0");
    let graph = ready.stream.capture(CaptureMode::default(), |capture| {
        for config in [
            LaunchConfig::linear(8, 32).cluster([4, 1, 1]),
            LaunchConfig::linear(8, 32).cooperative(),
            LaunchConfig::linear(8, 32).shared_bytes(64 << 10),
        ] {
            // SAFETY: as in `Ready::launch`.
            unsafe { capture.launch(&ready.kernel, &config, &NO_ARGS)? };
        }
        Ok(())
    });
    let graph = graph.unwrap().instantiate().unwrap();
    assert_eq!(ready.launched.load(Ordering::Relaxed), 0);
    // SAFETY: the graph keeps its kernel.
    unsafe { graph.launch(&ready.stream) }.unwrap();
    ready.stream.synchronize().unwrap();
    assert_eq!(ready.launched.load(Ordering::Relaxed), 3);
}

#[test]
fn a_kernel_of_another_device_is_refused() {
    let simulator = Sim::new("2xh200@13.0").unwrap();
    let driver = Driver::simulated(&simulator).unwrap();
    let (here, there) = (driver.device(0).unwrap(), driver.device(1).unwrap());
    let kernel = Module::load_ptx(&there, kernels::PTX).unwrap();
    let kernel = kernel.kernel(kernels::BURN).unwrap();
    let all = [here.sm_resource().unwrap()];
    let context = GreenContext::from_resources(&all, None, Default::default()).unwrap();
    let stream = context.create_stream().unwrap();
    let config = LaunchConfig::linear(1, 32);
    // SAFETY: as in `Ready::launch`.
    let launched = unsafe { stream.launch(&kernel, &config, &NO_ARGS) };
    assert!(
        matches!(
            launched,
            Err(Error::ForeignDevice {
                device: 1,
                expected: 0,
                ..
            })
        ),
        "{launched:?}"
    );
}

/// The library's waits see a kernel that waits for its caller, and let other threads call the driver meanwhile.
#[test]
fn a_kernel_may_wait_for_its_caller() {
    let ready = Ready::new("h200@13.0");
    let words = PinnedBuffer::<u32>::new(&ready.device, 2).unwrap();
    ready
        .simulator
        .register_concurrent_kernel(kernels::BURN, |launch| {
            let word = launch.arg_u64(0).unwrap();
            while launch.load_u32(word) == Ok(0) {
                std::thread::yield_now();
            }
            let _ = launch.store_u32(word + 4, 7);
        });
    let address = words.device_address().unwrap();
    // SAFETY: the function above takes the address of two words, which live until it has ended.
    unsafe {
        ready.stream.launch(
            &ready.kernel,
            &LaunchConfig::linear(1, 1),
            &[&address, &0_u32],
        )
    }
    .unwrap();
    assert!(!ready.stream.is_done().unwrap());
    // SAFETY: the words are aligned and live, and every access to them is atomic.
    let [asked, answered] =
        [0, 1].map(|index| unsafe { AtomicU32::from_ptr(words.as_ptr().cast_mut().add(index)) });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ready.stream.synchronize());
        // A call to the driver while another thread waits in it.
        let buffer = GpuMemoryPool::on(&ready.device, 4096).unwrap().allocate(64);
        drop(buffer.unwrap());
        assert_eq!(answered.load(Ordering::Acquire), 0);
        asked.store(1, Ordering::Release);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(answered.load(Ordering::Acquire), 7);
}

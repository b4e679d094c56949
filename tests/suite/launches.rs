//! Launches of every kind in a partition: in clusters, cooperative ones, with large shared memory; and that what
//! a stream says of them is what can be launched.

use cuda_green::{
    CaptureMode, ContextId, CudaDevice, Driver, Error, GpuBuffer, GpuMemoryPool, Kernel, KernelArg,
    LaunchConfig, Module, Result, Stream,
    sim::{Launch, Sim},
    sys::CUdevice_attribute,
};

use crate::{
    Case,
    support::{quad, since},
};

pub const CASES: &[Case] = &[
    ("launches/a_cluster_has_the_size_that_was_asked", clusters),
    ("launches/clusters_fit_as_the_stream_tells", cluster_sizes),
    ("launches/all_blocks_meet_at_a_barrier", barrier),
    ("launches/blocks_in_clusters_meet_too", barrier_in_clusters),
    ("launches/shared_memory_is_there", shared_memory),
    ("launches/a_refused_one_leaves_the_stream", refused),
    ("launches/a_chain_keeps_its_order", chain),
];

const KERNELS: &str = include_str!("kernels/launches.ptx");
const CLUSTERS: &str = include_str!("kernels/clusters.ptx");
const CHAIN: &str = include_str!("kernels/chain.ptx");

/// A stream of a partition, a kernel, and the two numbers that each of these kernels counts in.
struct Ready {
    device: CudaDevice,
    stream: Stream,
    kernel: Kernel,
    numbers: GpuBuffer,
}

impl Ready {
    fn new(driver: &Driver, text: &str, kernel: &str) -> Result<Self> {
        if let Some(simulator) = driver.simulator() {
            simulate(simulator);
        }
        let (device, manager) = quad(driver)?;
        let stream = manager.get_context(ContextId::Embedding)?.create_stream()?;
        let numbers = GpuMemoryPool::on(&device, 1 << 20)?.allocate(8)?;
        numbers.fill(0)?;
        Ok(Self {
            kernel: Module::load_ptx(&device, text)?.kernel(kernel)?,
            device,
            stream,
            numbers,
        })
    }

    /// Clusters, where the device and the driver have them.
    fn with_clusters(driver: &Driver) -> Result<Option<Self>> {
        let device = driver.device(0)?;
        let has_them = device.properties().compute_capability >= (9, 0) && since(driver, 11, 8);
        has_them
            .then(|| Self::new(driver, CLUSTERS, "suite_cluster"))
            .transpose()
    }

    /// Launches the kernel, and gives the numbers once it is done. They begin at 0.
    fn run(&mut self, config: LaunchConfig, args: &[&dyn KernelArg]) -> Result<[u32; 2]> {
        let mut all: Vec<&dyn KernelArg> = Vec::new();
        let address = self.numbers.address();
        all.push(&address);
        all.extend(args);
        // SAFETY: each kernel here takes the address of two numbers, which live until it was waited for, and what
        // its caller here adds.
        unsafe { self.stream.launch(&self.kernel, &config, &all)? };
        self.stream.synchronize()?;
        let mut bytes = [0; 8];
        self.numbers.copy_to(&mut bytes)?;
        self.numbers.fill(0)?;
        let [a, b, c, d, e, f, g, h] = bytes;
        Ok([[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes))
    }

    /// All blocks of a launch wait for each other.
    fn meet(&mut self, config: LaunchConfig) -> Result<()> {
        let blocks = config.grid.into_iter().product::<u32>();
        let [arrived, met] = self.run(config, &[&blocks])?;
        assert_eq!((arrived, met), (blocks, blocks), "{config}");
        Ok(())
    }
}

/// What the kernels do, for a driver that runs no machine code.
fn simulate(simulator: &Sim) {
    let add = |launch: &Launch<'_>, index: u64, value: u32| {
        let address = launch.arg_u64(0).unwrap_or_default() + 4 * index;
        launch.atomic_add_u32(address, value).map(drop)
    };
    simulator.register_kernel("suite_barrier", move |launch| {
        let blocks = launch.block_count() as u32;
        let _ = add(launch, 0, blocks).and_then(|()| add(launch, 1, blocks));
    });
    simulator.register_kernel("suite_cluster", move |launch| {
        let size: u32 = launch.cluster().into_iter().product();
        let _ = add(launch, 0, size)
            .and_then(|()| add(launch, 1, launch.block_count() as u32 / size.max(1)));
    });
    simulator.register_kernel("suite_chain", move |launch| {
        let _ = add(launch, 0, 1);
    });
    simulator.register_kernel("suite_shared", move |launch| {
        let words = launch.arg_u32(1).unwrap_or_default();
        assert!(words * 4 <= launch.shared_bytes());
        let _ = add(launch, 0, (0..words).fold(0, u32::wrapping_add));
    });
}

/// The same launch with so many blocks.
fn with_blocks(mut config: LaunchConfig, blocks: u64) -> LaunchConfig {
    config.grid = [u32::try_from(blocks).unwrap(), 1, 1];
    config
}

/// Refused as a launch, and not for another reason.
fn assert_refused<T>(result: Result<T>, config: LaunchConfig) {
    match result {
        Err(Error::LaunchRefused { config: of, .. }) => assert_eq!(*of, config),
        Err(other) => panic!("{config}: {other}"),
        Ok(_) => panic!("{config} was launched"),
    }
}

fn clusters(driver: &Driver) -> Result<()> {
    let Some(mut ready) = Ready::with_clusters(driver)? else {
        return Ok(());
    };
    let shape = LaunchConfig::linear(1, 128);
    let largest = ready.stream.max_cluster_size(&ready.kernel, &shape)?;
    for size in (1..=largest).filter(|size| size.is_power_of_two()) {
        let config = LaunchConfig::linear(24 * size, 128).cluster([size, 1, 1]);
        assert_eq!(ready.run(config, &[])?, [size, 24], "{config}");
    }
    if largest >= 4 {
        let config = LaunchConfig::new([4, 6, 1], [32, 1, 1]).cluster([2, 2, 1]);
        assert_eq!(ready.run(config, &[])?, [4, 6], "{config}");
    }
    // One that was not asked for is of one block.
    assert_eq!(ready.run(LaunchConfig::linear(5, 32), &[])?, [1, 5]);
    Ok(())
}

fn cluster_sizes(driver: &Driver) -> Result<()> {
    let Some(mut ready) = Ready::with_clusters(driver)? else {
        return Ok(());
    };
    let shape = LaunchConfig::linear(1, 128);
    let largest = ready.stream.max_cluster_size(&ready.kernel, &shape)?;
    assert!((1..=8).contains(&largest), "{largest}");
    for size in 1..=20 {
        let config = LaunchConfig::linear(6 * size, 128).cluster([size, 1, 1]);
        let fitting = ready.stream.max_active_clusters(&ready.kernel, &config);
        let launched = ready.run(config, &[]);
        match fitting {
            Ok(fitting) if fitting > 0 => assert_eq!(launched?, [size, 6], "{config}"),
            Ok(_) => assert_refused(launched, config),
            Err(Error::LaunchRefused { .. }) => assert_refused(launched, config),
            Err(other) => return Err(other),
        }
    }
    // Asked about clusters of more than 8, the kernel is allowed them.
    let allowed = ready.stream.max_cluster_size(&ready.kernel, &shape)?;
    assert!((largest..=16).contains(&allowed), "{allowed}");
    let all = ready.stream.max_active_clusters(&ready.kernel, &shape)?;
    assert!(all >= ready.stream.context().sm_count(), "{all}");
    Ok(())
}

/// As many blocks as can be resident at once meet; one more is refused.
fn barrier(driver: &Driver) -> Result<()> {
    if !since(driver, 11, 8) {
        return Ok(());
    }
    let mut ready = Ready::new(driver, KERNELS, "suite_barrier")?;
    for (threads, shared) in [(1024, 0), (96, 0), (256, 40 << 10)] {
        let shape = LaunchConfig::linear(1, threads)
            .shared_bytes(shared)
            .cooperative();
        let most = ready.stream.max_cooperative_blocks(&ready.kernel, &shape)?;
        assert!(
            most >= u64::from(ready.stream.context().sm_count()),
            "{shape}: {most}"
        );
        let blocks = |n| with_blocks(shape, n);
        ready.meet(blocks(1))?;
        ready.meet(blocks(most))?;
        let launched = ready.meet(blocks(most + 1));
        assert_refused(launched, blocks(most + 1));
        ready.meet(blocks(most))?;
    }
    Ok(())
}

fn barrier_in_clusters(driver: &Driver) -> Result<()> {
    if Ready::with_clusters(driver)?.is_none() {
        return Ok(());
    }
    let mut ready = Ready::new(driver, KERNELS, "suite_barrier")?;
    let shape = LaunchConfig::linear(2, 256)
        .cluster([2, 1, 1])
        .cooperative();
    let most = ready.stream.max_cooperative_blocks(&ready.kernel, &shape)?;
    assert!(most > 0 && most.is_multiple_of(2), "{most}");
    ready.meet(with_blocks(shape, most))
}

/// More than a launch gets without asking.
fn shared_memory(driver: &Driver) -> Result<()> {
    let mut ready = Ready::new(driver, KERNELS, "suite_shared")?;
    let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let most = u32::try_from(ready.device.attribute(most)?).unwrap();
    assert!(most > 48 << 10, "{most}");
    for bytes in [16 << 10, most.min(96 << 10), most, 32 << 10] {
        let words = bytes / 4;
        let sum = (0..words).fold(0, u32::wrapping_add);
        let config = LaunchConfig::linear(1, 256).shared_bytes(bytes);
        assert_eq!(ready.run(config, &[&words])?, [sum, 0], "{config}");
    }
    let config = LaunchConfig::linear(1, 256).shared_bytes(most + 1);
    assert_refused(ready.run(config, &[&0_u32]), config);
    Ok(())
}

/// Shapes that no launch can have, each of which leaves the stream as it was.
fn refused(driver: &Driver) -> Result<()> {
    let mut ready = Ready::new(driver, KERNELS, "suite_barrier")?;
    let good = LaunchConfig::linear(3, 32);
    for config in [
        LaunchConfig::linear(0, 32),
        LaunchConfig::linear(1, 0),
        LaunchConfig::linear(1, 1025),
        LaunchConfig::new([1, 65_536, 1], [1; 3]),
        LaunchConfig::new([1; 3], [1, 1, 65]),
        good.shared_bytes(u32::MAX),
    ] {
        assert_refused(ready.run(config, &[&1_u32]), config);
        ready.meet(good)?;
        assert!(ready.stream.is_done()?);
    }
    Ok(())
}

/// Kernels that may start before the one in front has ended find what it has written, in a stream and in a graph.
fn chain(driver: &Driver) -> Result<()> {
    const LENGTH: u32 = 200;
    let config = LaunchConfig::linear(1, 1).programmatic_dependent();
    if Ready::with_clusters(driver)?.is_none() {
        let ready = Ready::new(driver, KERNELS, "suite_barrier")?;
        // SAFETY: the launch is refused before the driver sees it.
        let refused = unsafe { ready.stream.launch(&ready.kernel, &config, &[]) };
        assert!(matches!(
            refused,
            Err(Error::InvalidArgument { .. } | Error::Unsupported { .. })
        ));
        return Ok(());
    }
    let mut ready = Ready::new(driver, CHAIN, "suite_chain")?;
    let address = ready.numbers.address();
    for _ in 1..LENGTH {
        // SAFETY: the kernel takes the address of a number, which lives until it was waited for.
        unsafe { ready.stream.launch(&ready.kernel, &config, &[&address])? };
    }
    assert_eq!(ready.run(config, &[])?, [LENGTH, 0]);
    if !since(driver, 12, 3) {
        return Ok(());
    }
    let graph = ready
        .stream
        .capture(CaptureMode::default(), |capture| {
            for _ in 0..LENGTH {
                // SAFETY: as above.
                unsafe { capture.launch(&ready.kernel, &config, &[&address])? };
            }
            Ok(())
        })?
        .instantiate()?;
    for _ in 0..3 {
        // SAFETY: the number lives until `run` has waited.
        unsafe { graph.launch(&ready.stream)? };
    }
    assert_eq!(ready.run(config, &[])?, [3 * LENGTH + 1, 0]);
    Ok(())
}

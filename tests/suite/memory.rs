//! Pools and buffers: limits that hold exactly, memory that is used again in the right order, nothing lost.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cuda_green::{
    ContextId, CudaDevice, Driver, Error, GpuBuffer, GpuMemoryPool, GreenContext, LaunchConfig,
    MemoryBudget, MemoryPressure, ModelNeeds, ModelSlots, Module, RebalanceHint, Result,
    SmPartitionManager, Stream,
};

use crate::{
    Case,
    support::{quad, times},
};

pub const CASES: &[Case] = &[
    ("memory/limits_are_exact", limits),
    ("memory/limits_are_exact_from_many_threads", many_threads),
    ("memory/bytes_come_back", round_trip),
    ("memory/pressure_follows_use", pressure),
    ("memory/buffers_outlive_contexts_and_pools", outlive),
    ("memory/a_foreign_buffer_is_refused", foreign),
    ("memory/free_memory_comes_back", comes_back),
    ("memory/the_device_runs_out_clearly", device_full),
    ("memory/limits_stand_within_limits", hierarchy),
    (
        "memory/a_devices_budget_stands_over_contexts_and_models",
        device_budget,
    ),
    ("memory/the_whole_limit_can_be_had_at_once", whole),
    ("memory/what_a_stream_uses_is_not_handed_out", stream_order),
    ("memory/copies_in_streams", pinned_copies),
    ("memory/typed_buffers", typed),
    ("memory/sizes_that_cannot_be", impossible_sizes),
    ("memory/threads_share_a_pool", stress),
    ("memory/a_thread_dies_holding_buffers", dying_thread),
    ("memory/pressure_calls_back", callbacks),
    ("memory/figures_add_up", metrics),
    ("memory/others_press_on_the_device_too", device_pressure),
    ("memory/hits_and_frees_are_timed_now_and_then", timed),
];

const MIB: usize = 1 << 20;

fn limits(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, 1000)?;
    let one = pool.allocate(999)?;
    assert_eq!((pool.used(), pool.available()), (999, 1));
    assert!(matches!(
        pool.allocate(2),
        Err(Error::OutOfMemory {
            asked: 2,
            available: 1,
            limit: 1000
        })
    ));
    let two = pool.allocate(1)?;
    assert_eq!(pool.available(), 0);
    assert_ne!(one.address(), two.address());
    pool.deallocate(one)?;
    drop(two);
    assert_eq!((pool.used(), pool.high_water_mark()), (0, 1000));
    assert!(matches!(
        pool.allocate(usize::MAX),
        Err(Error::OutOfMemory { .. })
    ));
    assert!(matches!(
        pool.allocate(0),
        Err(Error::InvalidArgument { .. })
    ));
    assert_eq!(pool.used(), 0, "what fails takes nothing");
    Ok(())
}

/// Threads race for a pool that holds exactly so many buffers: no more, and no fewer, are ever granted.
fn many_threads(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    for _ in 0..times(driver, 20, 3) {
        let pool = GpuMemoryPool::on(&device, 10 * 4096)?;
        let granted: Vec<GpuBuffer> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let pool = &pool;
                    scope.spawn(move || {
                        (0..50)
                            .filter_map(|_| pool.allocate(4096).ok())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(granted.len(), 10);
        drop(granted);
        assert_eq!(pool.used(), 0);
    }
    Ok(())
}

fn round_trip(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, MIB as u64)?;
    let buffer = pool.allocate(70_000)?;
    assert_eq!(buffer.len(), 70_000);
    assert_eq!(buffer.address() % 256, 0);
    let written: Vec<u8> = (0..70_000u32).map(|i| (i * 7 % 251) as u8).collect();
    buffer.copy_from(&written)?;
    let mut read = vec![0; 70_000];
    buffer.copy_to(&mut read)?;
    assert_eq!(read, written);
    buffer.copy_from(&[1, 2, 3])?;
    buffer.copy_to(&mut read[..4])?;
    assert_eq!(read[..4], [1, 2, 3, written[3]]);
    buffer.fill(0xa5)?;
    buffer.copy_to(&mut read)?;
    assert!(read.iter().all(|byte| *byte == 0xa5));
    assert!(matches!(
        buffer.copy_from(&vec![0; 70_001]),
        Err(Error::LengthMismatch { .. })
    ));
    assert!(matches!(
        buffer.copy_to(&mut vec![0; 70_001]),
        Err(Error::LengthMismatch { .. })
    ));
    Ok(())
}

fn pressure(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 100 * 512)?;
    let mut buffers = Vec::new();
    for percent in 0..=100 {
        let expected = match percent {
            ..50 => MemoryPressure::Low,
            50..80 => MemoryPressure::Medium,
            80..=95 => MemoryPressure::High,
            _ => MemoryPressure::Critical,
        };
        assert_eq!(pool.pressure_level(), expected, "{percent} %");
        if percent < 100 {
            buffers.push(pool.allocate(512)?);
        }
    }
    Ok(())
}

fn outlive(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let context = manager.get_context(ContextId::Embedding)?;
    let buffer = context.memory()?.allocate(MIB)?;
    assert_eq!(context.memory_used(), MIB as u64);
    assert_eq!(
        manager.allocation_status().contexts[0].memory_used_bytes,
        MIB as u64
    );
    assert_eq!(context.memory()?.limit(), 8 << 30);
    drop(context);
    for id in ContextId::ALL {
        manager.destroy_context(id)?;
    }
    drop(manager);
    buffer.copy_from(&vec![7; MIB])?;
    let mut read = vec![0; MIB];
    buffer.copy_to(&mut read)?;
    assert!(read.iter().all(|byte| *byte == 7));
    Ok(())
}

fn foreign(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let (one, two) = (
        GpuMemoryPool::on(&device, 4096)?,
        GpuMemoryPool::on(&device, 4096)?,
    );
    let buffer = one.allocate(4096)?;
    assert!(matches!(two.deallocate(buffer), Err(Error::ForeignBuffer)));
    assert_eq!(
        (one.used(), two.used()),
        (0, 0),
        "it was dropped, so its own pool has it back"
    );
    Ok(())
}

fn comes_back(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    // The first pool of a process may make the driver take memory for itself.
    drop(GpuMemoryPool::on(&device, u64::MAX)?.allocate(MIB)?);
    let before = device.free_memory()?;
    for _ in 0..times(driver, 50, 5) {
        let pool = GpuMemoryPool::on(&device, 512 << 20)?;
        let buffers = (0..4)
            .map(|_| pool.allocate(64 * MIB))
            .collect::<Result<Vec<_>>>()?;
        assert!(device.free_memory()? <= before - (256 << 20));
        drop(buffers);
    }
    assert_eq!(device.free_memory()?, before);
    assert!(before <= device.total_memory());
    Ok(())
}

/// More than the device has, under a limit that would allow it.
fn device_full(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, u64::MAX)?;
    let too_much = device.total_memory() as usize + MIB;
    assert!(matches!(
        pool.allocate(too_much),
        Err(Error::OutOfMemory { .. })
    ));
    assert_eq!(pool.used(), 0);
    pool.allocate(MIB)?.copy_from(&[1]) // and it goes on working
}

fn hierarchy(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let budget = MemoryBudget::new(10_000)?;
    let one = GpuMemoryPool::within(&device, &budget, 8_000)?;
    let two = GpuMemoryPool::within(&device, &budget, 8_000)?;
    let buffer = one.allocate(7_000)?;
    assert_eq!((one.available(), two.available()), (1_000, 3_000));
    assert!(matches!(
        two.allocate(3_001),
        Err(Error::OutOfMemory {
            asked: 3_001,
            available: 3_000,
            limit: 10_000
        })
    ));
    let model = two.child(2_500)?;
    assert!(model.allocate(2_501).is_err());
    let weights = model.allocate(2_500)?;
    assert_eq!((two.used(), budget.used()), (2_500, 9_500));
    drop(buffer);
    let later = two.reserve(5_000)?;
    assert_eq!((two.available(), budget.available()), (500, 2_500));
    assert!(two.allocate(501).is_err());
    let promised = later.allocate(5_000)?;
    assert!(later.allocate(1).is_err());
    drop((later, promised));
    assert_eq!((two.available(), budget.reserved()), (5_500, 0));
    drop((model, weights));
    assert_eq!((budget.used(), budget.high_water_mark()), (0, 9_500));
    assert!(matches!(
        MemoryBudget::new(0),
        Err(Error::InvalidArgument { .. })
    ));
    Ok(())
}

/// A device's budget over the contexts' limits, and those over models'.
fn device_budget(driver: &Driver) -> Result<()> {
    const MB: usize = 1_000_000;
    let device = driver.device(0)?;
    let budget = MemoryBudget::new(1_000 * MB as u64)?;
    let manager = SmPartitionManager::on(&device)?.with_memory_budget(&budget)?;
    manager.init_quad_partition()?;
    let embedding = manager.get_context(ContextId::Embedding)?;
    let dream = manager.get_context(ContextId::Dream)?;
    let (embedding_pool, dream_pool) = (embedding.memory()?, dream.memory()?);
    assert_eq!(
        (embedding_pool.limit(), dream_pool.limit()),
        (8 << 30, 8 << 30)
    );
    let weights = embedding_pool.allocate(700 * MB)?;
    assert!(matches!(
        dream_pool.allocate(300 * MB + 1),
        Err(Error::OutOfMemory {
            available: 300_000_000,
            limit: 1_000_000_000,
            ..
        })
    ));
    let slots = ModelSlots::new(dream_pool.child(200 * MB as u64)?, 13)?;
    let needs = |bytes: usize| ModelNeeds {
        bytes: bytes as u64,
        priority: 0,
    };
    let load = |name, bytes| slots.get_or_load(name, needs(bytes), |pool| pool.allocate(bytes));
    drop(load("first", 150 * MB)?);
    assert_eq!(
        (budget.available(), dream_pool.available()),
        (150_000_000, 150_000_000)
    );
    drop(load("second", 100 * MB)?);
    assert!(!slots.contains("first"), "the models' own limit is 200");
    assert!(matches!(
        load("third", 201 * MB),
        Err(Error::NoRoomForModel { .. })
    ));
    assert_eq!(budget.used(), 800_000_000);
    let report = manager.memory_report();
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| (&*row.name, row.memory.used))
        .collect();
    assert_eq!(
        rows,
        [
            ("device", 800_000_000),
            ("Embedding", 700_000_000),
            ("Dream", 100_000_000)
        ]
    );
    // The budget goes with the name: a context that takes another's place has it too.
    let rebalanced = manager.rebalance(RebalanceHint::EmbeddingHeavy);
    if device.capabilities().merge {
        rebalanced?;
    }
    let after = manager.get_context(ContextId::Embedding)?;
    assert_eq!(
        (after.memory_used(), after.memory()?.available()),
        (700_000_000, 200_000_000)
    );
    assert!(matches!(
        manager.with_memory_budget(&budget),
        Err(Error::AlreadyPartitioned { contexts: 4 })
    ));
    assert!(matches!(
        after.set_memory_budget(&budget),
        Err(Error::InvalidArgument { .. })
    ));
    drop((weights, slots));
    assert_eq!((budget.used(), budget.reserved()), (0, 0));
    Ok(())
}

/// After much else, the whole limit in one buffer, and then in many small ones.
fn whole(driver: &Driver) -> Result<()> {
    let limit = 8usize << 30;
    let pool = GpuMemoryPool::on(&driver.device(0)?, limit as u64)?;
    for _ in 0..2 {
        let mut buffers = Vec::new();
        let mut size = 1;
        while pool.available() > 0 {
            size = (size * 7 % (48 * MIB) + 1).min(pool.available() as usize);
            buffers.push(pool.allocate(size)?);
        }
        assert_eq!(pool.available(), 0);
        // Every other one: what is free is in pieces now.
        let mut keep = false;
        buffers.retain(|_| {
            keep = !keep;
            keep
        });
        drop(buffers);
        let all = pool.allocate(limit)?;
        assert_eq!(all.len(), limit);
        all.copy_from(&[1])?;
    }
    assert_eq!(pool.used(), 0);
    Ok(())
}

/// A stream in single-context clothes, and a kernel that keeps it busy for a while.
fn busy_stream(device: &CudaDevice) -> Result<(Stream, impl Fn(&Stream) -> Result<()>)> {
    let context = GreenContext::primary(device, crate::support::config(1))?;
    let module = Module::load_ptx(
        device,
        include_str!("../../cuda-green/src/kernels/kernels.ptx"),
    )?;
    let kernel = module.kernel("cuda_green_burn")?;
    if let Some(simulator) = device.driver().simulator() {
        simulator.register_kernel_cost("cuda_green_burn", |_| {
            cuda_green::sim::BlockCost::busy(Duration::from_millis(50))
        });
    }
    let stream = context.create_stream()?;
    Ok((stream, move |stream: &Stream| {
        // About 50 ms on an H200.
        // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
        unsafe {
            stream.launch(
                &kernel,
                &LaunchConfig::linear(1, 32),
                &[&0u64, &20_000_000u32],
            )
        }
    }))
}

fn stream_order(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let (stream, burn) = busy_stream(&device)?;
    let other = stream.context().create_stream()?;
    for size in [5_000, 20 * MIB] {
        let pool = GpuMemoryPool::on(&device, 64 << 20)?;
        let buffer = pool.allocate(size)?;
        let address = buffer.address();
        burn(&stream)?;
        buffer.free_on(&stream)?;
        assert!(!stream.is_done()?, "the kernel is too short for this test");
        assert_eq!(pool.used(), 0, "the accounting has it back at once");
        // Others get other memory; the same stream gets the same.
        let elsewhere = pool.allocate(size)?;
        assert_ne!(elsewhere.address(), address);
        assert_ne!(pool.allocate_on(&other, size)?.address(), address);
        let again = pool.allocate_on(&stream, size)?;
        assert_eq!(again.address(), address);
        assert!(!stream.is_done()?, "nothing so far waited");
        // Dropped without a word, it is still not anyone else's.
        drop(again);
        assert_ne!(pool.allocate(size)?.address(), address);
        // What waits for the host waits for the stream first.
        let again = pool.allocate_on(&stream, size)?;
        assert_eq!(again.address(), address);
        again.copy_from(&[1, 2, 3])?;
        assert!(stream.is_done()?);
        drop((again, elsewhere));
        let mut seen = Vec::new();
        while pool.used() + size as u64 <= pool.limit() && seen.len() < 3 {
            seen.push(pool.allocate(size)?);
        }
        assert!(seen.iter().any(|buffer| buffer.address() == address));
    }
    // A pool that has nothing else waits for what streams still use rather than refuse what fits.
    let pool = GpuMemoryPool::on(&device, 64 << 20)?;
    let buffer = pool.allocate(64 * MIB)?;
    burn(&stream)?;
    buffer.free_on(&stream)?;
    drop(pool.allocate(64 * MIB)?);
    // And a pool that ends waits, too.
    let buffer = pool.allocate(MIB)?;
    burn(&stream)?;
    buffer.fence_on(&stream)?;
    drop((buffer, pool));
    assert!(stream.is_done()?);
    Ok(())
}

fn pinned_copies(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let (stream, burn) = busy_stream(&device)?;
    let other = stream.context().create_stream()?;
    let pool = GpuMemoryPool::on(&device, 1 << 20)?;
    let mut source = pool.allocate_pinned::<u32>(1000)?;
    assert!(source.as_slice()?.iter().all(|value| *value == 0));
    for (value, i) in source.as_mut_slice()?.iter_mut().zip(0..) {
        *value = i * i;
    }
    let mut buffer = pool.allocate(4000)?;
    let mut back = pool.allocate_pinned::<u32>(1000)?;
    burn(&stream)?;
    buffer.copy_from_pinned(&source, &stream)?;
    // In another stream, and ordered after the first without a word.
    buffer.copy_to_pinned(&mut back, &other)?;
    assert!(!other.is_done()?, "it waits for the first stream");
    assert_eq!(back.as_slice()?, source.as_slice()?);
    assert!(stream.is_done()?, "looking at the values has waited");
    buffer.fill_on(0xff, &stream)?;
    drop(buffer); // with the fill on its way
    // Dropped with copies on their way, the source waits for them.
    let mut buffer = pool.allocate(4000)?;
    burn(&stream)?;
    buffer.copy_from_pinned(&source, &stream)?;
    drop(source);
    assert!(stream.is_done()?);
    let mut long = pool.allocate_pinned::<u8>(4001)?;
    assert!(matches!(
        buffer.copy_to_pinned(&mut long, &stream),
        Err(Error::LengthMismatch { .. })
    ));
    assert!(matches!(
        pool.allocate_pinned::<u8>(0),
        Err(Error::InvalidArgument { .. })
    ));
    Ok(())
}

fn typed(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    let values: Vec<f64> = (0..777).map(f64::from).collect();
    let buffer = pool.allocate_typed::<f64>(777)?;
    assert_eq!((buffer.len(), pool.used()), (777, 777 * 8));
    buffer.copy_from(&values)?;
    let mut back = vec![0.0; 777];
    buffer.copy_to(&mut back)?;
    assert_eq!(back, values);
    assert!(buffer.copy_from(&[0.0; 778]).is_err());
    // Bytes that do not fill a value are left over.
    let bytes = pool.allocate(15)?.typed::<u64>()?;
    assert_eq!((bytes.len(), bytes.bytes().len()), (1, 15));
    assert!(matches!(
        pool.allocate(15)?.typed::<()>(),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(pool.allocate_typed::<u64>(usize::MAX / 4).is_err());
    drop((buffer, bytes));
    assert_eq!(pool.used(), 0);
    Ok(())
}

fn impossible_sizes(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    for limit in [1, 4096, 8 << 30, u64::MAX] {
        let pool = GpuMemoryPool::on(&device, limit)?;
        for size in [usize::MAX, usize::MAX - 255, isize::MAX as usize, 1 << 60] {
            assert!(pool.allocate(size).is_err());
            assert!(pool.reserve(u64::MAX).is_err() || limit == u64::MAX);
        }
        assert_eq!(pool.used(), 0);
        drop(pool.allocate(1)?);
    }
    Ok(())
}

/// Threads allocate, write, look and free, also each other's buffers: nobody ever sees another's bytes.
fn stress(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 256 << 20)?;
    let shelf: Mutex<Vec<(GpuBuffer, u8)>> = Mutex::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let (pool, shelf) = (&pool, &shelf);
                scope.spawn(move || -> Result<()> {
                    let mut state = thread + 99;
                    for round in 0..times(driver, 400, 2_000) {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let size = 1 + (state >> 33) as usize % (1 << (8 + state % 14));
                        let mark = (state >> 20) as u8;
                        let buffer = pool.allocate(size)?;
                        let ends = [mark; 16];
                        buffer.copy_from(&ends[..size.min(16)])?;
                        let taken = {
                            let mut shelf = shelf.lock().unwrap();
                            shelf.push((buffer, mark));
                            let at = round * 7 % shelf.len();
                            (shelf.len() > 40).then(|| shelf.swap_remove(at))
                        };
                        if let Some((buffer, mark)) = taken {
                            let mut seen = [0; 16];
                            let len = buffer.len().min(16);
                            buffer.copy_to(&mut seen[..len])?;
                            assert_eq!(seen[..len], [mark; 16][..len]);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    })?;
    drop(shelf);
    assert_eq!(pool.used(), 0);
    let metrics = pool.metrics();
    assert_eq!(metrics.allocations, metrics.deallocations);
    pool.trim()?;
    assert_eq!(pool.metrics().from_driver, 0);
    Ok(())
}

fn dying_thread(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    let thread = {
        let pool = pool.clone();
        std::thread::spawn(move || {
            let _buffers: Vec<_> = (1..20).map(|i| pool.allocate(i * 100).unwrap()).collect();
            std::panic::resume_unwind(Box::new("on purpose"));
        })
    };
    assert!(thread.join().is_err());
    assert_eq!(pool.used(), 0);
    drop(pool.allocate(1 << 20)?);
    Ok(())
}

fn callbacks(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 100_000)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let handle = Arc::new(Mutex::new(Some(pool.clone())));
    let (list, looking) = (heard.clone(), handle.clone());
    pool.on_pressure(move |change| {
        // No lock is held, so the pool can be asked.
        assert!(looking.lock().unwrap().as_ref().unwrap().limit() == 100_000);
        list.lock().unwrap().push(change.to);
    });
    let half = pool.allocate(50_000)?;
    let most = pool.allocate(46_000)?;
    assert_eq!(pool.pressure_level(), MemoryPressure::Critical);
    drop(most);
    drop(half);
    assert_eq!(
        *heard.lock().unwrap(),
        [
            MemoryPressure::Medium,
            MemoryPressure::Critical,
            MemoryPressure::Medium,
            MemoryPressure::Low
        ]
    );
    *handle.lock().unwrap() = None;
    Ok(())
}

fn metrics(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 30)?;
    let one = pool.allocate(1_000_000)?;
    drop(pool.allocate(3_000)?);
    drop(pool.allocate(3_001)?);
    assert!(pool.allocate(2 << 30).is_err());
    let metrics = pool.metrics();
    assert_eq!((metrics.allocations, metrics.deallocations), (3, 2));
    assert_eq!((metrics.cache_hits, metrics.failures), (1, 1));
    assert_eq!(
        (metrics.used, metrics.high_water_mark),
        (1_000_000, 1_003_001)
    );
    assert_eq!(metrics.misses.count(), 2);
    // All of the driver's memory is somewhere, and rounding takes no more than an eighth.
    let in_use = metrics.from_driver - metrics.cached - metrics.free_from_driver - metrics.pending;
    assert!((1_000_000..1_125_000).contains(&in_use), "{metrics}");
    let json = serde_json::to_value(metrics).unwrap();
    assert_eq!(json["used"], 1_000_000);
    let timed = json["misses"].as_array().unwrap();
    assert_eq!(
        timed
            .iter()
            .map(|pair| pair[1].as_u64().unwrap())
            .sum::<u64>(),
        2
    );
    assert!(metrics.to_string().contains("high water mark"));
    drop(one);
    Ok(())
}

/// What another pool takes shows in the device's pressure, once the last answer is old.
fn device_pressure(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, 1 << 20)?;
    let before = pool.device_pressure(Duration::ZERO)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = heard.clone();
    pool.on_device_pressure(move |change| list.lock().unwrap().push((change.from, change.to)))?;
    let other = GpuMemoryPool::on(&device, u64::MAX)?;
    // To more than 80 % of the device, however full it is.
    let total = device.total_memory();
    let used = total - device.free_memory()?;
    let wanted = (total / 100 * 85).saturating_sub(used);
    let taken = other.allocate(wanted.max(1) as usize)?;
    assert_eq!(pool.device_pressure(Duration::from_secs(3600))?, before);
    assert!(heard.lock().unwrap().is_empty(), "nobody has asked");
    // Taking memory from the driver is a moment to ask.
    drop(pool.allocate(1000)?);
    let high = pool.device_pressure(Duration::from_secs(3600))?;
    assert_eq!(*heard.lock().unwrap(), [(before, high)]);
    assert!(pool.device_pressure(Duration::ZERO)? >= MemoryPressure::High);
    drop(taken);
    other.trim()?;
    assert_eq!(pool.device_pressure(Duration::ZERO)?, before);
    assert_eq!(*heard.lock().unwrap(), [(before, high), (high, before)]);
    assert_eq!(pool.pressure_level(), MemoryPressure::Low);
    Ok(())
}

fn timed(driver: &Driver) -> Result<()> {
    // No hit among them, so none is timed as one.
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    let held = (0..64 * 5)
        .map(|_| pool.allocate(3_000))
        .collect::<Result<Vec<_>>>()?;
    let metrics = pool.metrics();
    assert_eq!((metrics.misses.count(), metrics.hits.count()), (64 * 5, 0));
    drop(held);
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    for _ in 0..64 * 20 {
        drop(pool.allocate(3_000)?);
    }
    let metrics = pool.metrics();
    assert_eq!(
        (metrics.misses.count(), metrics.cache_hits),
        (1, 64 * 20 - 1)
    );
    assert!((19..=20).contains(&metrics.hits.count()), "{metrics}");
    assert_eq!(metrics.frees.count(), 20);
    Ok(())
}

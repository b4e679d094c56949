//! Limits that hold exactly, one within another, from any number of threads.

use cuda_green::{
    ContextId, Driver, Error, GpuBuffer, GpuMemoryPool, MemoryBudget, ModelNeeds, ModelSlots,
    RebalanceHint, Result, SmPartitionManager,
};

use super::MIB;
use crate::{Case, support::times};

pub const CASES: &[Case] = &[
    ("memory/limits_are_exact", limits),
    ("memory/limits_are_exact_from_many_threads", many_threads),
    ("memory/limits_stand_within_limits", hierarchy),
    (
        "memory/a_devices_budget_stands_over_contexts_and_models",
        device_budget,
    ),
    ("memory/the_whole_limit_can_be_had_at_once", whole),
    ("memory/the_device_runs_out_clearly", device_full),
    ("memory/sizes_that_cannot_be", impossible_sizes),
];

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

/// More than the device has, under a limit that would allow it.
fn device_full(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, u64::MAX)?;
    let too_much = device.total_memory() as usize + MIB;
    assert!(matches!(
        pool.allocate(too_much),
        Err(Error::DeviceOutOfMemory { asked, .. }) if asked == too_much as u64
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

//! Pressure of the whole device: told at exactly its thresholds, without a call to the driver where memory
//! comes from what the pool has.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cuda_green::{
    CudaDevice, Driver, GpuMemoryPool,
    MemoryPressure::{self, Critical, High, Low, Medium},
    PressureChange,
    sim::Sim,
};

const MIB: u64 = 1 << 20;

fn device(simulator: &Sim) -> CudaDevice {
    Driver::simulated(simulator).unwrap().device(0).unwrap()
}

/// A pool with someone who hears of its device, and what was heard.
fn watched(device: &CudaDevice) -> (GpuMemoryPool, Arc<Mutex<Vec<PressureChange>>>) {
    let pool = GpuMemoryPool::on(device, 100 * MIB).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = heard.clone();
    pool.on_device_pressure(move |change| list.lock().unwrap().push(change))
        .unwrap();
    (pool, heard)
}

/// Entered at 50 %, 80 % and above 95 %; left two points below.
fn expected(told: MemoryPressure, used: u64, total: u64) -> MemoryPressure {
    let at_least = |percent: u64, used: u64| used * 100 >= total * percent;
    let above_95 = |used: u64| used * 100 > total * 95;
    let level = |used: u64| {
        if above_95(used) {
            Critical
        } else if at_least(80, used) {
            High
        } else if at_least(50, used) {
            Medium
        } else {
            Low
        }
    };
    let stays_above = level(used + total / 50);
    if level(used) > told {
        level(used)
    } else {
        told.min(stays_above)
    }
}

/// Another process takes the device's memory in small steps and gives it back.
#[test]
fn others_are_heard_of_at_the_thresholds() {
    let simulator = Sim::new("t4@13.0").unwrap();
    let device = device(&simulator);
    let (pool, heard) = watched(&device);
    let other = GpuMemoryPool::on(&device, u64::MAX).unwrap();
    let total = device.total_memory();
    let mut told = pool.device_pressure(Duration::ZERO).unwrap();
    let (mut taken, mut levels) = (Vec::new(), vec![told]);
    let mut check = || {
        let used = total - device.free_memory().unwrap();
        let now = pool.device_pressure(Duration::ZERO).unwrap();
        assert_eq!(now, MemoryPressure::of(used, total));
        let changes = std::mem::take(&mut *heard.lock().unwrap());
        let next = expected(told, used, total);
        let calls: Vec<_> = changes
            .iter()
            .map(|change| (change.from, change.to))
            .collect();
        if next == told {
            assert_eq!(calls, []);
        } else {
            assert_eq!(calls, [(told, next)]);
            assert_eq!((changes[0].used, changes[0].limit), (used, total));
            levels.push(next);
        }
        told = next;
    };
    while let Ok(buffer) = other.allocate(40 << 20) {
        taken.push(buffer);
        check();
    }
    while taken.pop().is_some() {
        other.trim().unwrap();
        check();
    }
    assert_eq!(levels, [Low, Medium, High, Critical, High, Medium, Low]);
}

#[test]
fn growing_is_a_moment_to_hear_of_others() {
    let simulator = Sim::new("t4@13.0").unwrap();
    let device = device(&simulator);
    let (pool, heard) = watched(&device);
    let other = GpuMemoryPool::on(&device, u64::MAX).unwrap();
    let most = device.free_memory().unwrap() / 10 * 9;
    let taken = other.allocate(most as usize).unwrap();
    assert!(heard.lock().unwrap().is_empty(), "nobody has asked");
    let small = pool.allocate(1000).unwrap();
    assert_eq!(heard.lock().unwrap().last().unwrap().to, High);
    // Nor does a failure to ask harm an allocation.
    drop(taken);
    let refusal = cuda_green::CUresult::CUDA_ERROR_INVALID_VALUE;
    let refusal = cuda_green::sim::Injection::fail("cuMemGetInfo_v2", refusal).unwrap();
    simulator.inject(refusal.onwards(1));
    drop(pool.allocate(50 << 20).unwrap());
    simulator.assert_injections_fired();
    drop(small);
}

#[test]
fn what_the_pool_has_costs_no_call_to_the_driver() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let (pool, heard) = watched(&device(&simulator));
    pool.on_pressure(|_| ());
    let sizes = [100, 5_000, 70_000, 1 << 20];
    for size in sizes {
        drop(pool.allocate(size).unwrap());
    }
    simulator.start_trace();
    for _ in 0..500 {
        for size in sizes {
            drop(pool.allocate(size).unwrap());
        }
        pool.device_pressure(Duration::from_secs(3600)).unwrap();
        assert_eq!(pool.pressure_level(), Low);
    }
    let calls: Vec<_> = simulator
        .take_trace()
        .iter()
        .map(|call| call.entry_point)
        .collect();
    assert_eq!(calls, [] as [&str; 0]);
    assert!(heard.lock().unwrap().is_empty());
}

/// A callback that panics takes no bytes with it, and keeps nobody else from hearing.
#[test]
fn a_callback_that_panics_costs_nothing() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let (pool, heard) = watched(&device(&simulator));
    pool.on_pressure(|_| panic!("the caller's own"));
    let list = heard.clone();
    pool.on_pressure(move |change| list.lock().unwrap().push(change));
    drop(pool.allocate(60 << 20).unwrap());
    assert_eq!(pool.used(), 0);
    let heard: Vec<_> = heard.lock().unwrap().iter().map(|told| told.to).collect();
    assert_eq!(heard, [Medium, Low]);
}

//! Room for models and buffers: loads that wait for each other, evictions in vain, leaks, and what is said to be short.

use std::sync::{
    Barrier,
    atomic::{AtomicUsize, Ordering},
};

use cuda_green::{
    Driver, Error, GpuBuffer, GpuMemoryPool, MemoryPool, MemoryPressure, MemoryReport,
    MockGpuMemoryPool, ModelNeeds, ModelSlots, sim::Sim, sys::CUresult,
};
use proptest::prelude::*;

fn slots(limit: u64, capacity: usize) -> ModelSlots<GpuBuffer> {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let pool = GpuMemoryPool::on(&driver.device(0).unwrap(), limit).unwrap();
    ModelSlots::new(pool, capacity).unwrap()
}

fn needs(bytes: u64) -> ModelNeeds {
    ModelNeeds { bytes, priority: 0 }
}

/// A load that asks for its own model, or two that ask for each other's, are told so instead of waiting for ever.
#[test]
fn loads_that_wait_for_themselves_are_told() {
    let slots = slots(1 << 30, 4);
    let own = slots.get_or_load("a", needs(1), |_| {
        slots.get_or_load("a", needs(1), |pool| pool.allocate(1))?;
        unreachable!("it would wait for itself");
    });
    let Err(Error::ModelWaitsForItself { models }) = own else {
        panic!("{own:?}");
    };
    assert_eq!(models, ["a"]);
    assert!(!slots.contains("a"));

    let (begun, slots) = (Barrier::new(2), &slots);
    let load = |first: &'static str, second: &'static str| {
        let begun = &begun;
        move || {
            slots.get_or_load(first, needs(1), |pool| {
                begun.wait(); // both load now
                let other = slots.get_or_load(second, needs(1), |pool| pool.allocate(1));
                match other {
                    Ok(_) => pool.allocate(1),
                    Err(error) => Err(error),
                }
            })
        }
    };
    let results = std::thread::scope(|scope| {
        let one = scope.spawn(load("a", "b"));
        let other = scope.spawn(load("b", "a"));
        [one.join().unwrap(), other.join().unwrap()]
    });
    // The one that would have closed the circle is refused; the other then finds its model free, and loads it.
    let refused = results.iter().filter(
        |result| matches!(result, Err(Error::ModelWaitsForItself { models }) if models.len() == 2),
    );
    assert_eq!(refused.count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let text = results.iter().find_map(|one| one.as_ref().err());
    assert!(text.unwrap().to_string().contains("waits for the next"));
}

/// Loads that wait for others, in these slots or in others, and that are no circle.
#[test]
fn loads_that_wait_for_others_end() {
    let (front, back) = (slots(1 << 30, 4), slots(1 << 30, 4));
    let model = front
        .get_or_load("a", needs(1), |pool| {
            // The same name in other slots is another model.
            back.get_or_load("a", needs(1), |pool| pool.allocate(1))?;
            front.get_or_load("b", needs(1), |pool| {
                back.get_or_load("b", needs(1), |pool| pool.allocate(1))?;
                pool.allocate(1)
            })?;
            pool.allocate(1)
        })
        .unwrap();
    drop(model);
    let loads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for name in ["c", "d"] {
                    let load = |pool: &GpuMemoryPool| {
                        loads.fetch_add(1, Ordering::Relaxed);
                        pool.allocate(1)
                    };
                    front.get_or_load(name, needs(1), load).unwrap();
                }
            });
        }
    });
    assert_eq!(loads.into_inner(), 2);
}

/// A model that the device can never hold evicts none, whatever the limit says.
#[test]
fn nothing_is_evicted_for_what_the_device_can_never_hold() {
    let slots = slots(1 << 40, 4);
    let total = slots.pool().device().total_memory();
    for name in ["a", "b", "c"] {
        let load = |pool: &GpuMemoryPool| pool.allocate(1 << 30);
        slots.get_or_load(name, needs(1 << 30), load).unwrap();
    }
    let load = |pool: &GpuMemoryPool| pool.allocate(1);
    let refused = slots
        .get_or_load("huge", needs(total + 1), load)
        .unwrap_err();
    let known = slots.pool().device().free_memory().unwrap();
    assert!(
        matches!(refused, Error::DeviceOutOfMemory { asked, free, total: all } if asked == total + 1 && free == Some(known) && all == total),
        "{refused}"
    );
    // It would fit an empty device, but others have the rest of it.
    let others = GpuMemoryPool::on(slots.pool().device(), u64::MAX).unwrap();
    let taken = others.allocate(total as usize - (20 << 30)).unwrap();
    let load = |pool: &GpuMemoryPool| pool.allocate(30 << 30);
    let refused = slots
        .get_or_load("large", needs(30 << 30), load)
        .unwrap_err();
    assert!(
        matches!(refused, Error::DeviceOutOfMemory { .. }),
        "{refused}"
    );
    let text = refused.to_string();
    assert!(
        text.starts_with(
            "30 GiB (32212254720 bytes) were requested, which the limits allow, but only"
        ) && text.contains("of the device's"),
        "{text}"
    );
    for name in ["a", "b", "c"] {
        assert!(slots.contains(name), "{name} was evicted in vain");
    }
    // Nor where it allocates piece by piece, and the first pieces fit: 23 GiB can be had at most.
    let mut calls = 0;
    let refused = slots
        .get_or_load("pieces", needs(30 << 30), |pool| {
            calls += 1;
            let pieces = (0..30).map(|_| pool.allocate(1 << 30));
            pieces
                .collect::<Result<Vec<_>, _>>()?
                .pop()
                .ok_or(Error::ForeignContext)
        })
        .unwrap_err();
    assert!(
        matches!(refused, Error::DeviceOutOfMemory { .. }),
        "{refused}"
    );
    assert_eq!((calls, slots.status().evictions), (1, 0));
    // What idle models can make room for is loaded.
    slots.pool().trim().unwrap();
    drop(taken);
    let taken = others.allocate(total as usize - (10 << 30)).unwrap();
    let load = |pool: &GpuMemoryPool| pool.allocate(8 << 30);
    slots.get_or_load("fits", needs(8 << 30), load).unwrap();
    assert!(!slots.contains("a"));
    drop(taken);
}

/// A model that leaked a buffer is missed when it is evicted, and another that fits all the same is loaded.
#[test]
fn a_leak_of_an_evicted_model_fails_no_other() {
    let slots = slots(100 << 20, 2);
    let mut leaked = None;
    slots
        .get_or_load("leaky", needs(40 << 20), |pool| {
            leaked = Some(pool.allocate(10 << 20)?);
            pool.allocate(1)
        })
        .unwrap();
    slots
        .get_or_load("a", needs(10 << 20), |pool| pool.allocate(1))
        .unwrap();
    // The slots are full, so the leaky one goes; its 40 MiB are still charged, and 20 MiB fit beside them.
    let load = |pool: &GpuMemoryPool| pool.allocate(20 << 20);
    slots.get_or_load("b", needs(20 << 20), load).unwrap();
    assert!(!slots.contains("leaky") && slots.contains("a"));
    drop(leaked);
    assert_eq!(slots.pool().used(), 30 << 20);
}

/// A model's row has no level of pressure: it has all of the bytes that are set aside for it. Counts of its pool are
/// counted in the one above.
#[test]
fn a_full_model_is_no_alarm_and_counts_above() {
    let slots = slots(1 << 30, 13);
    let load = |pool: &GpuMemoryPool| pool.allocate(100 << 20);
    slots.get_or_load("full", needs(100 << 20), load).unwrap();
    let report = MemoryReport::default().with_slots("embedding", &slots);
    assert_eq!(report.rows[0].pressure, Some(MemoryPressure::Low));
    assert_eq!(report.rows[1].pressure, None);
    let counts = |report: &MemoryReport| {
        let memory = &report.rows[0].memory;
        (memory.allocations, memory.deallocations)
    };
    assert_eq!(counts(&report), (1, 0));
    slots.evict("full").unwrap();
    let report = MemoryReport::default().with_slots("embedding", &slots);
    assert_eq!(counts(&report), (1, 1), "also of a pool that has ended");
    let text = slots.status().to_string();
    assert!(text.starts_with("0 of 13 slots; loads: 1 at "), "{text}");
    assert!(
        text.ends_with("; 0 hits, 1 evictions, 0 failures"),
        "{text}"
    );
}

/// Which is short, the limit or the device, and how much there is.
#[test]
fn what_is_short_is_told() {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let device = driver.device(0).unwrap();
    let pool = GpuMemoryPool::on(&device, 3 << 29).unwrap();
    assert_eq!(
        pool.allocate(2 << 30).unwrap_err().to_string(),
        "2 GiB (2147483648 bytes) were requested, but only 1.50 GiB (1610612736 bytes) of the limit of 1.50 GiB \
         (1610612736 bytes) are left; free buffers, or raise the limit"
    );
    let unlimited = GpuMemoryPool::on(&device, u64::MAX).unwrap();
    let text = unlimited.allocate(1 << 40).unwrap_err().to_string();
    assert!(
        text.contains(
            "1 TiB (1099511627776 bytes) were requested, which the limits allow, but only"
        ) && text.contains("of the device's"),
        "{text}"
    );
    assert!(!text.contains("18446744073709551615"), "{text}");
}

/// Slots full, or a budget that is short: nothing is evicted for a model that the device cannot hold then.
#[test]
fn nothing_is_evicted_for_the_budget_where_the_device_is_short() {
    for (limit, capacity) in [(31 << 30, 4), (1 << 40, 3)] {
        let slots = slots(limit, capacity);
        for name in ["a", "b", "c"] {
            let load = |pool: &GpuMemoryPool| pool.allocate(1 << 30);
            slots.get_or_load(name, needs(1 << 30), load).unwrap();
        }
        let total = slots.pool().device().total_memory();
        let others = GpuMemoryPool::on(slots.pool().device(), u64::MAX).unwrap();
        let _taken = others.allocate(total as usize - (20 << 30)).unwrap();
        let load = |_: &GpuMemoryPool| unreachable!("it was not to be tried");
        let refused = slots
            .get_or_load("large", needs(30 << 30), load)
            .unwrap_err();
        let free = slots.pool().device().free_memory().unwrap();
        assert!(
            matches!(refused, Error::DeviceOutOfMemory { asked, free: Some(told), .. } if asked == 30 << 30 && told == free),
            "{refused}"
        );
        assert_eq!(slots.status().evictions, 0);
    }
}

/// Drivers' pools grow in steps: what one has more than it gave counts as room, as it is once a model has gone.
#[test]
fn room_in_the_drivers_pool_counts() {
    const MIB: usize = 1 << 20;
    let slots = slots(1 << 40, 4);
    let load = |pool: &GpuMemoryPool| pool.allocate(40 * MIB);
    slots.get_or_load("a", needs(40 << 20), load).unwrap();
    let device = slots.pool().device().clone();
    let others = GpuMemoryPool::on(&device, u64::MAX).unwrap();
    let free = device.free_memory().unwrap() as usize / (32 * MIB) * (32 * MIB);
    let _taken = others.allocate(free - 64 * MIB).unwrap();
    let left = device.free_memory().unwrap() as usize / (32 * MIB) * (32 * MIB);
    // More than what is free and what the idle model has, and no more than the steps of both.
    let wanted = left + 60 * MIB;
    let load = |pool: &GpuMemoryPool| pool.allocate(wanted);
    slots.get_or_load("b", needs(wanted as u64), load).unwrap();
    assert!(!slots.contains("a"));
}

/// Others take the room that was made: the error says that models went for it.
#[test]
fn what_was_evicted_for_a_load_that_fails_is_told() {
    let slots = slots(1 << 40, 4);
    let others = GpuMemoryPool::on(slots.pool().device(), u64::MAX).unwrap();
    for name in ["a", "b"] {
        let load = |pool: &GpuMemoryPool| pool.allocate(1 << 30);
        slots.get_or_load(name, needs(1 << 30), load).unwrap();
    }
    let mut taken = Vec::new();
    let refused = slots
        .get_or_load("new", needs(1 << 20), |pool| {
            // The device is full each time, whatever goes.
            let free = others.device().free_memory().unwrap() as usize;
            taken.extend(others.allocate(free / (64 << 20) * (64 << 20)));
            Err::<GpuBuffer, _>(Error::DeviceOutOfMemory {
                asked: 1 << 20,
                free: Some(0),
                total: pool.device().total_memory(),
            })
        })
        .unwrap_err();
    let Error::NoRoomForModel { evicted, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*evicted, 2);
    let text = refused.to_string();
    assert!(text.ends_with("; 2 were evicted for it"), "{text}");
    // Where none was, it says so.
    let full: Vec<_> = ["c", "d", "e", "f"]
        .iter()
        .map(|name| {
            let load = |pool: &GpuMemoryPool| pool.allocate(1);
            slots.get_or_load(name, needs(1), load).unwrap()
        })
        .collect();
    let load = |pool: &GpuMemoryPool| pool.allocate(1);
    let refused = slots.get_or_load("g", needs(1), load).unwrap_err();
    let text = refused.to_string();
    assert!(text.ends_with("; none was evicted for it"), "{text}");
    assert!(text.starts_with("g needs 1 byte and a slot; "), "{text}");
    drop(full);
}

/// A device that does not tell what is free: no figure is made up.
#[test]
fn no_figure_is_told_that_the_driver_did_not_say() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let pool = GpuMemoryPool::on(&device, u64::MAX).unwrap();
    simulator
        .fail("cuMemGetInfo", 1, CUresult::CUDA_ERROR_INVALID_VALUE)
        .unwrap();
    let refused = pool.allocate(1 << 40).unwrap_err();
    simulator.assert_injections_fired();
    assert!(
        matches!(refused, Error::DeviceOutOfMemory { free: None, .. }),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(text.contains("but less of the device's "), "{text}");
    // Without a limit none is named.
    let _some = pool.allocate(1 << 20).unwrap();
    let text = pool.allocate(usize::MAX).unwrap_err().to_string();
    assert!(!text.contains("limit"), "{text}");
    let mock = MockGpuMemoryPool::new(0, u64::MAX).unwrap();
    mock.fail_next(1);
    let text = MemoryPool::allocate(&mock, 1).unwrap_err().to_string();
    assert!(
        text.starts_with("1 byte was requested") && !text.contains("18446744073709551615"),
        "{text}"
    );
}

/// A thread that is ending can load models: in the destructor of a C library's key, when the standard library's own
/// values of the thread are gone.
#[cfg(all(unix, not(miri)))]
#[test]
fn a_thread_loads_at_its_very_end() {
    use std::{ffi::c_void, sync::mpsc};

    type AtEnd = Box<dyn FnOnce()>;
    /// Runs what the key has.
    extern "C" fn run(at_end: *mut c_void) {
        // SAFETY: it is the pointer that was made of a box below, and each key's value comes once.
        let at_end = unsafe { Box::from_raw(at_end.cast::<AtEnd>()) };
        at_end();
    }
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let slots = slots(1 << 30, 4);
        let at_end: AtEnd = Box::new(move || {
            // A panic here would end the process.
            let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let own = slots.get_or_load("a", needs(1), |_| {
                    slots.get_or_load("a", needs(1), |pool| pool.allocate(1))?;
                    unreachable!("it would wait for itself");
                });
                let waits = matches!(own, Err(Error::ModelWaitsForItself { .. }));
                let load = |pool: &GpuMemoryPool| pool.allocate(1);
                (waits, slots.get_or_load("a", needs(1), load).is_ok())
            }));
            tell.send(loaded.ok()).unwrap();
        });
        let mut key = 0;
        // SAFETY: the output is valid, and the destructor takes what is set below.
        unsafe {
            assert_eq!(libc::pthread_key_create(&mut key, Some(run)), 0);
            let value = Box::into_raw(Box::new(at_end));
            assert_eq!(libc::pthread_setspecific(key, value.cast()), 0);
        }
    })
    .join()
    .unwrap();
    assert_eq!(told.recv().unwrap(), Some((true, true)));
}

/// What a device that others have most of, and idle models, can give.
#[derive(Clone, Debug)]
struct Room {
    /// MiB that others leave.
    left: u64,
    /// MiB of idle models.
    idle: Vec<u64>,
    /// Slots beside these, and MiB of the budget.
    slots: usize,
    budget: u64,
    /// MiB of the pieces that the model allocates one after another, and of what it says that it needs beside.
    pieces: Vec<u64>,
    slack: u64,
}

fn rooms() -> impl Strategy<Value = Room> {
    (
        1_000..8_000u64,
        prop::collection::vec(50..2_000u64, 0..6),
        0..2usize,
        prop_oneof![Just(1 << 30), 4_000..20_000u64],
        prop_oneof![
            prop::collection::vec(1..400u64, 1..40),
            prop::collection::vec(200..3_000u64, 1..8),
        ],
        prop_oneof![4 => Just(0), 1 => 0..3_000u64],
    )
        .prop_map(|(left, idle, slots, budget, pieces, slack)| Room {
            left,
            idle,
            slots,
            budget,
            pieces,
            slack,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever pieces a model allocates: where free memory and idle models are not enough for it, none of them goes; and
    /// where they clearly are, it is loaded.
    #[test]
    fn models_are_evicted_where_that_is_enough(room in rooms()) {
        const MIB: u64 = 1 << 20;
        let slots = slots(room.budget * MIB, room.idle.len() + room.slots.max(usize::from(room.idle.is_empty())));
        let others = GpuMemoryPool::on(slots.pool().device(), u64::MAX).unwrap();
        let all = slots.pool().device().free_memory().unwrap() / MIB;
        for (mib, name) in room.idle.iter().zip(0..) {
            let load = |pool: &GpuMemoryPool| pool.allocate((mib * MIB) as usize);
            // A later one may take the room of an earlier.
            slots.get_or_load(&format!("{name}"), needs(mib * MIB), load).unwrap();
        }
        slots.pool().trim().unwrap();
        let evicted = slots.status().evictions;
        let loaded: u64 = slots.status().slots.iter().map(|slot| slot.needs.bytes / MIB).sum();
        let _taken = others.allocate(((all - loaded).saturating_sub(room.left) * MIB) as usize).unwrap();
        // The driver's pool has up to 32 MiB more than it has given.
        let device = slots.pool().device().free_memory().unwrap() / MIB + loaded + 33;
        let wanted: u64 = room.pieces.iter().sum::<u64>();
        let named = wanted + room.slack;
        let result = slots.get_or_load("new", needs(named * MIB), |pool| {
            let pieces = room.pieces.iter().map(|mib| pool.allocate((mib * MIB) as usize));
            pieces.collect::<Result<Vec<_>, _>>()?.pop().ok_or(Error::ForeignContext)
        });
        // Classes round up by an eighth, and pools grow in steps.
        let clearly = named + named / 8 + 200 <= device && named <= room.budget;
        match result {
            Ok(_) => prop_assert!(wanted <= device && named <= room.budget),
            Err(error) => {
                prop_assert!(!clearly, "{error}");
                if named > device || named > room.budget {
                    prop_assert_eq!(slots.status().evictions, evicted, "in vain: {}", error);
                }
            }
        }
    }
}

//! Room for models and buffers: loads that wait for each other, evictions in vain, leaks, and what is said to be short.

#![allow(clippy::unwrap_used, clippy::panic)] // these are tests

use std::sync::{
    Barrier,
    atomic::{AtomicUsize, Ordering},
};

use cuda_green::{
    Driver, Error, GpuBuffer, GpuMemoryPool, MemoryPressure, MemoryReport, ModelNeeds, ModelSlots,
};

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
    assert!(
        matches!(refused, Error::DeviceOutOfMemory { asked, total: all, .. } if asked == total + 1 && all == total),
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
            "30 GiB (32212254720 bytes) were asked for, which the limits allow, but of the device's"
        ),
        "{text}"
    );
    for name in ["a", "b", "c"] {
        assert!(slots.contains(name), "{name} was evicted in vain");
    }
    // What idle models can make room for is loaded.
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
        "2 GiB (2147483648 bytes) were asked for, but only 1.50 GiB (1610612736 bytes) of the limit of 1.50 GiB \
         (1610612736 bytes) are left; free buffers, or raise the limit"
    );
    let unlimited = GpuMemoryPool::on(&device, u64::MAX).unwrap();
    let text = unlimited.allocate(1 << 40).unwrap_err().to_string();
    assert!(
        text.contains("1 TiB (1099511627776 bytes) were asked for, which the limits allow, but of the device's"),
        "{text}"
    );
    assert!(!text.contains("18446744073709551615"), "{text}");
}

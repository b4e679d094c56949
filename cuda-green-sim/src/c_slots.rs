//! Slots, through which C calls find their driver: a fixed number of slots, and a C function for each slot and entry
//! point.
//!
//! A C function carries no data, so the slot is part of its code: each entry point is generic over the slot's number.
//! One simulated driver at a time takes a slot. Slots are given out in turn, so a stale function pointer usually
//! meets an empty slot instead of another driver. If it does meet one, that driver knows none of its handles.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cuda_green_sys::CUresult;

use crate::{c_args::Answer, driver::Driver, error::Error, fork, sync::RwLock};

/// The largest number of simulated drivers that can exist at once in a process.
pub const MAX_DRIVERS: usize = 32;

static SLOTS: [RwLock<Option<Arc<Driver>>>; MAX_DRIVERS] =
    [const { RwLock::new(None) }; MAX_DRIVERS];

/// The slot at which the search for a free one starts.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Puts a driver into a free slot and returns the slot.
pub(crate) fn take(driver: &Arc<Driver>) -> Result<usize, Error> {
    let start = NEXT.fetch_add(1, Ordering::Relaxed);
    for offset in 0..MAX_DRIVERS {
        let slot = start.wrapping_add(offset) % MAX_DRIVERS;
        let mut place = SLOTS[slot].write();
        if place.is_none() {
            *place = Some(Arc::clone(driver));
            // The next driver gets a later slot, so that this one's neighbour is not reused first.
            NEXT.store(slot + 1, Ordering::Relaxed);
            return Ok(slot);
        }
    }
    Err(Error::TooManyDrivers { limit: MAX_DRIVERS })
}

/// Empties a slot; from then on, calls through its functions return `DEINITIALIZED`.
pub(crate) fn leave(slot: usize) {
    let driver = SLOTS[slot].write().take();
    // Dropped after the lock is released: a kernel's closure may own anything, even another driver.
    drop(driver);
}

/// Runs one call of an entry point on the driver of a slot. Panics end here, because they must not reach C.
pub(crate) fn call(
    slot: usize,
    entry_point: &'static str,
    body: &mut dyn FnMut(&Driver) -> Answer,
) -> CUresult {
    if fork::was_forked() {
        return call_in_a_child(slot, entry_point, body);
    }
    let driver = SLOTS[slot].read().clone();
    let Some(driver) = driver else {
        return CUresult::CUDA_ERROR_DEINITIALIZED;
    };
    without_panic(|| {
        driver.begin_call(entry_point)?;
        body(&driver)
    })
}

fn without_panic(call: impl FnOnce() -> Answer) -> CUresult {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => CUresult::CUDA_SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => CUresult::CUDA_ERROR_UNKNOWN,
    }
}

/// The functions that work in a forked child, because they do not need an initialised driver. On an H200 (driver 580)
/// `cuThreadExchangeStreamCaptureMode` works there too; here it would need a lock.
const WORK_IN_A_CHILD: [&str; 3] = ["cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"];

/// Runs one call in a forked child. It waits for no lock, because a thread of the parent may have held it at the
/// fork.
fn call_in_a_child(
    slot: usize,
    entry_point: &str,
    body: &mut dyn FnMut(&Driver) -> Answer,
) -> CUresult {
    let works = WORK_IN_A_CHILD.contains(&entry_point);
    let driver = SLOTS[slot].try_read().filter(|_| works);
    match driver.as_deref() {
        Some(Some(driver)) => without_panic(|| body(driver)),
        _ => CUresult::CUDA_ERROR_NOT_INITIALIZED,
    }
}

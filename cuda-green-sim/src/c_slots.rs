//! Where C calls find their driver: a fixed number of slots, and a C function for each slot and name.
//!
//! A C function carries no data of its own, so the slot is part of its code: each entry point is
//! generic over the slot's number. A slot is taken by one simulated driver at a time. Slots are given
//! out in turn, so that a pointer kept too long meets an empty slot, not somebody else's driver; and
//! should it meet one after all, that driver knows none of its handles.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cuda_green_sys::CUresult;

use crate::{c_args::Answer, driver::Driver, error::Error, fork, sync::RwLock};

/// How many simulated drivers can live at once in one process.
pub const MAX_DRIVERS: usize = 32;

static SLOTS: [RwLock<Option<Arc<Driver>>>; MAX_DRIVERS] =
    [const { RwLock::new(None) }; MAX_DRIVERS];

/// Where the search for a free slot starts.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Puts a driver into a free slot.
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

/// Empties a slot; calls through its functions answer `DEINITIALIZED` from now on.
pub(crate) fn leave(slot: usize) {
    let driver = SLOTS[slot].write().take();
    // Dropped only after the lock is gone: a kernel's closure may own anything, another driver too.
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

/// What a forked child can call still, since none of it needs the driver to be initialised. On an H200 (driver 580)
/// `cuThreadExchangeStreamCaptureMode` works there, too; here it would need a lock.
const WORK_IN_A_CHILD: [&str; 3] = ["cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"];

/// Runs one call in a forked child. It waits for no lock, which a thread of the parent's may have held.
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

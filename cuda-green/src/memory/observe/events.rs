//! Events of pools, for the `tracing` facade; nothing at all without the feature.
//!
//! Only rare and slow operations emit one: memory taken from the driver and returned to it, and refusals. Cache hits
//! do not.

use crate::memory::budget::limit_tree::LimitExceeded;

/// Something worth an event. Sizes are in bytes.
#[cfg_attr(not(feature = "tracing"), allow(dead_code))] // read only by `emit`
pub(crate) enum MemoryEvent {
    /// The driver gave memory; `now` is what the pools have of the driver's after it.
    TakenFromDriver { bytes: u64, now: u64 },
    /// Memory was returned to the driver.
    ReturnedToDriver { bytes: u64, now: u64 },
    /// An allocation or a reservation exceeds a limit.
    Refused(LimitExceeded),
    /// The limits allowed an allocation, and the device did not have the memory.
    DeviceFull {
        asked: u64,
        /// None if the driver did not say.
        free: Option<u64>,
        total: u64,
    },
    /// The driver's pool could not grow, so an allocation came from outside it.
    OutsidePool { bytes: u64 },
}

#[cfg(not(feature = "tracing"))]
#[inline]
pub(crate) fn emit(_: MemoryEvent) {}

/// Emits an event of the target `cuda_green::memory`.
#[cfg(feature = "tracing")]
pub(crate) fn emit(event: MemoryEvent) {
    use tracing::{debug, warn};

    const TARGET: &str = "cuda_green::memory";
    match event {
        MemoryEvent::TakenFromDriver { bytes, now } => {
            debug!(target: TARGET, bytes, from_driver = now, "took memory from the driver");
        }
        MemoryEvent::ReturnedToDriver { bytes, now } => {
            debug!(target: TARGET, bytes, from_driver = now, "gave memory back to the driver");
        }
        MemoryEvent::Refused(LimitExceeded {
            asked,
            available,
            limit,
        }) => warn!(target: TARGET, asked, available, limit, "refused memory"),
        MemoryEvent::DeviceFull { asked, free, total } => {
            warn!(target: TARGET, asked, free, total, "the device has too little memory");
        }
        MemoryEvent::OutsidePool { bytes } => {
            warn!(target: TARGET, bytes, "the driver's pool could not grow: allocated by cuMemAlloc");
        }
    }
}

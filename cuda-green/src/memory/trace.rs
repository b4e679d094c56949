//! What happens in pools and slots, for the `tracing` facade; nothing at all without the feature.
//!
//! Only what is rare and slow by itself is told: the driver's memory coming and going, refusals, models.
//! Cache hits are not.

use std::time::Duration;

use super::tree::Refused;

/// Something worth an event. Bytes, unless said otherwise.
#[cfg_attr(not(feature = "tracing"), allow(dead_code))] // nobody looks
pub(crate) enum Happening<'a> {
    /// The driver gave memory; the pools have so much of it now.
    FromDriver {
        bytes: u64,
        now: u64,
    },
    /// The driver got memory back.
    ToDriver {
        bytes: u64,
        now: u64,
    },
    /// An allocation or a reservation was refused.
    Refused(Refused),
    /// The limits allowed an allocation, and the device had not so much.
    DeviceFull {
        asked: u64,
        /// None where the driver did not say.
        free: Option<u64>,
        total: u64,
    },
    /// An allocation came from outside of the driver's pool, which could not grow.
    OutsidePool {
        bytes: u64,
    },
    Loaded {
        model: &'a str,
        bytes: u64,
        took: Duration,
    },
    LoadFailed {
        model: &'a str,
        bytes: u64,
    },
    Evicted {
        model: &'a str,
        bytes: u64,
    },
}

#[cfg(not(feature = "tracing"))]
#[inline]
pub(crate) fn tell(_: Happening<'_>) {}

/// Puts it out as an event of the target `cuda_green::memory`.
#[cfg(feature = "tracing")]
pub(crate) fn tell(happening: Happening<'_>) {
    use tracing::{debug, info, warn};

    const TARGET: &str = "cuda_green::memory";
    match happening {
        Happening::FromDriver { bytes, now } => {
            debug!(target: TARGET, bytes, from_driver = now, "took memory from the driver");
        }
        Happening::ToDriver { bytes, now } => {
            debug!(target: TARGET, bytes, from_driver = now, "gave memory back to the driver");
        }
        Happening::Refused(Refused {
            asked,
            available,
            limit,
        }) => warn!(target: TARGET, asked, available, limit, "refused memory"),
        Happening::DeviceFull { asked, free, total } => {
            warn!(target: TARGET, asked, free, total, "the device has too little memory");
        }
        Happening::OutsidePool { bytes } => {
            warn!(target: TARGET, bytes, "the driver's pool could not grow: allocated by cuMemAlloc");
        }
        Happening::Loaded { model, bytes, took } => {
            info!(target: TARGET, model, bytes, seconds = took.as_secs_f64(), "loaded a model");
        }
        Happening::LoadFailed { model, bytes } => {
            warn!(target: TARGET, model, bytes, "a model did not load");
        }
        Happening::Evicted { model, bytes } => {
            info!(target: TARGET, model, bytes, "evicted a model");
        }
    }
}

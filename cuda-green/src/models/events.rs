//! Events of model slots, for the `tracing` facade; nothing at all without the feature.

use std::time::Duration;

/// Something worth an event. `bytes` is the size that the model was given.
#[cfg_attr(not(feature = "tracing"), allow(dead_code))] // read only by `emit`
pub(super) enum ModelEvent<'a> {
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
pub(super) fn emit(_: ModelEvent<'_>) {}

/// Emits an event of the target `cuda_green::memory`.
#[cfg(feature = "tracing")]
pub(super) fn emit(event: ModelEvent<'_>) {
    use tracing::{info, warn};

    const TARGET: &str = "cuda_green::memory";
    match event {
        ModelEvent::Loaded { model, bytes, took } => {
            info!(target: TARGET, model, bytes, seconds = took.as_secs_f64(), "loaded a model");
        }
        ModelEvent::LoadFailed { model, bytes } => {
            warn!(target: TARGET, model, bytes, "a model did not load");
        }
        ModelEvent::Evicted { model, bytes } => {
            info!(target: TARGET, model, bytes, "evicted a model");
        }
    }
}

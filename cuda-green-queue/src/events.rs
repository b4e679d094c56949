//! Events of queues, for the `tracing` facade; without the feature, this does nothing.
//!
//! A subscriber is a client's code, so no event is emitted while a lock is held, and none for each task.

/// An event. `device` is the ordinal.
#[cfg_attr(not(feature = "tracing"), allow(dead_code))] // not read without it
pub(crate) enum QueueEvent<'a> {
    Made {
        device: u32,
        lanes: u32,
        priorities: u32,
        depth: u32,
    },
    Closed {
        device: u32,
    },
    Ended {
        device: u32,
        discards: bool,
    },
    /// A handler panicked.
    Panicked {
        task: &'a str,
    },
}

/// Emits an event.
#[cfg(not(feature = "tracing"))]
#[inline]
pub(crate) fn emit(_: QueueEvent<'_>) {}

/// Emits an event of the target `cuda_green::queues`.
#[cfg(feature = "tracing")]
pub(crate) fn emit(event: QueueEvent<'_>) {
    const TARGET: &str = "cuda_green::queues";
    match event {
        QueueEvent::Made {
            device,
            lanes,
            priorities,
            depth,
        } => tracing::info!(
            target: TARGET,
            device,
            lanes,
            priorities,
            depth,
            "task queue made"
        ),
        QueueEvent::Closed { device } => {
            tracing::debug!(target: TARGET, device, "task queue closed");
        }
        QueueEvent::Ended { device, discards } => {
            tracing::info!(target: TARGET, device, discards, "task queue ended");
        }
        QueueEvent::Panicked { task } => {
            tracing::warn!(target: TARGET, task, "handler panicked");
        }
    }
}

//! Events of partitions and their contexts, for the `tracing` facade; without the feature, this does nothing.
//!
//! A subscriber is a client's code and may call the manager, so no event is emitted while a lock is held that such a
//! call takes: [`defer`] keeps the events of a change until its locks are free.

#[cfg(feature = "tracing")]
use std::cell::RefCell;
use std::time::Duration;

use crate::planner::SplitStrategy;

/// An event. `device` is the ordinal, `sms` the number of SMs that the context has.
#[cfg_attr(not(feature = "tracing"), allow(dead_code))] // not read without it
pub(crate) enum PartitionEvent {
    /// The device was partitioned by a plan.
    Partitioned {
        device: u32,
        strategy: Option<SplitStrategy>,
        partitions: String,
    },
    /// One partition was created out of what was left.
    PartitionCreated {
        device: u32,
        partition: String,
        sms: u32,
    },
    PartitionDestroyed {
        device: u32,
        partition: String,
    },
    /// The driver refused a better plan than the one that follows.
    PlanRefused {
        device: u32,
        strategy: SplitStrategy,
        error: String,
    },
    /// The manager refused an operation.
    Refused {
        device: u32,
        operation: &'static str,
        kind: &'static str,
        error: String,
    },
    Rebalanced {
        device: u32,
        favoured: Option<String>,
        hand_off: &'static str,
        made: usize,
        took: Duration,
    },
    /// The manager gave other shares to names of the plan among processes.
    SharesChanged {
        device: u32,
        generation: u64,
        partitions: String,
        behind: Option<String>,
        took: Duration,
    },
    /// A name of the manager has what a newer plan among processes gives to it.
    PlanFollowed {
        device: u32,
        partition: String,
        sms: u32,
        generation: u64,
    },
    /// Every id stands for the whole device.
    SingleContext {
        device: u32,
        reason: String,
    },
    ContextCreated {
        device: u32,
        sms: u32,
    },
    /// A further green context over the SMs of another, for a further thread.
    SiblingCreated {
        device: u32,
    },
    /// A retired context is given up.
    ContextRetired {
        device: u32,
        sms: u32,
    },
    ContextDestroyed {
        device: u32,
        sms: u32,
        green_contexts: usize,
    },
    /// A context stays to the end of the process, since it cannot be destroyed.
    ContextKept {
        device: u32,
        sms: u32,
        reason: &'static str,
    },
}

/// Defers the events of this thread until it is dropped.
#[must_use]
pub(crate) struct Deferred(());

#[cfg(not(feature = "tracing"))]
mod off {
    use super::{Deferred, PartitionEvent};

    #[inline]
    pub(crate) fn emit(_: impl FnOnce() -> PartitionEvent) {}

    #[inline]
    pub(crate) fn defer() -> Deferred {
        Deferred(())
    }
}
#[cfg(not(feature = "tracing"))]
pub(crate) use off::{defer, emit};

#[cfg(feature = "tracing")]
#[derive(Default)]
struct DeferredEvents {
    guards: usize,
    events: Vec<PartitionEvent>,
}

#[cfg(feature = "tracing")]
thread_local! {
    static QUEUE: RefCell<DeferredEvents> = RefCell::default();
}

/// Emits an event, now or once this thread no longer defers its events. The event is made only if there is a
/// subscriber.
#[cfg(feature = "tracing")]
pub(crate) fn emit(event: impl FnOnce() -> PartitionEvent) {
    use tracing::level_filters::LevelFilter;

    if LevelFilter::current() == LevelFilter::OFF {
        return;
    }
    let mut event = Some(event());
    // At the end of a thread its queue may be gone, and no event is deferred then.
    let _ = QUEUE.try_with(|queue| {
        let mut queue = queue.borrow_mut();
        if queue.guards > 0 {
            queue.events.extend(event.take());
        }
    });
    if let Some(event) = event {
        event.record();
    }
}

/// Defers the events of this thread until the last such guard is dropped. Call it before taking a lock.
#[cfg(feature = "tracing")]
pub(crate) fn defer() -> Deferred {
    let _ = QUEUE.try_with(|queue| queue.borrow_mut().guards += 1);
    Deferred(())
}

#[cfg(feature = "tracing")]
impl Drop for Deferred {
    fn drop(&mut self) {
        let events = QUEUE.try_with(|queue| {
            let mut queue = queue.borrow_mut();
            queue.guards -= 1;
            if queue.guards > 0 {
                return Vec::new();
            }
            std::mem::take(&mut queue.events)
        });
        let events = events.unwrap_or_default();
        events.into_iter().for_each(PartitionEvent::record);
    }
}

#[cfg(feature = "tracing")]
impl PartitionEvent {
    /// Records it as an event of the target `cuda_green::partitions`.
    fn record(self) {
        use tracing::{debug, info, warn};

        const TARGET: &str = "cuda_green::partitions";
        match self {
            Self::Partitioned {
                device,
                strategy,
                partitions,
            } => {
                let strategy = strategy.map(tracing::field::display);
                info!(target: TARGET, device, strategy, partitions, "partitioned the device");
            }
            Self::PartitionCreated {
                device,
                partition,
                sms,
            } => info!(target: TARGET, device, partition, sms, "created a partition"),
            Self::PartitionDestroyed { device, partition } => {
                info!(target: TARGET, device, partition, "destroyed a partition");
            }
            Self::PlanRefused {
                device,
                strategy,
                error,
            } => {
                info!(target: TARGET, device, %strategy, error, "the driver refused a better plan");
            }
            Self::Refused {
                device,
                operation,
                kind,
                error,
            } => warn!(target: TARGET, device, operation, kind, error, "refused"),
            Self::Rebalanced {
                device,
                favoured,
                hand_off,
                made,
                took,
            } => {
                let seconds = took.as_secs_f64();
                info!(
                    target: TARGET, device, favoured, hand_off, made_contexts = made, seconds,
                    "rebalanced"
                );
            }
            Self::SharesChanged {
                device,
                generation,
                partitions,
                behind,
                took,
            } => {
                let seconds = took.as_secs_f64();
                info!(
                    target: TARGET, device, generation, partitions, behind, seconds,
                    "changed the plan among processes"
                );
            }
            Self::PlanFollowed {
                device,
                partition,
                sms,
                generation,
            } => {
                info!(
                    target: TARGET, device, partition, sms, generation,
                    "followed the plan among processes"
                );
            }
            Self::SingleContext { device, reason } => {
                warn!(target: TARGET, device, reason, "single-context mode: nothing is isolated");
            }
            Self::ContextCreated { device, sms } => {
                debug!(target: TARGET, device, sms, "created a green context");
            }
            Self::SiblingCreated { device } => {
                debug!(target: TARGET, device, "created a sibling for a further thread");
            }
            Self::ContextRetired { device, sms } => {
                debug!(target: TARGET, device, sms, "gave up a retired context");
            }
            Self::ContextDestroyed {
                device,
                sms,
                green_contexts,
            } => debug!(target: TARGET, device, sms, green_contexts, "destroyed a context"),
            Self::ContextKept {
                device,
                sms,
                reason,
            } => {
                warn!(target: TARGET, device, sms, reason, "a context stays until the process ends")
            }
        }
    }
}

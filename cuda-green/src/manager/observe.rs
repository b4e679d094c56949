//! Observation of a manager: what it counts for the `metrics` facade and reports to `tracing`; nothing without the
//! features.

use std::{fmt::Debug, time::Duration};

use super::{label::label, state::ManagerState};
use crate::{
    error::{Error, Result},
    events::{PartitionEvent, emit},
    names::HandOff,
    sharing::PlanChange,
};

/// An operation that changes a manager.
#[derive(Clone, Copy)]
pub(super) enum Operation {
    Create,
    Destroy,
    Rebalance,
    Provision,
    Release,
    SetShares,
}

/// The time since something began, with a feature that reports it.
pub(super) struct Stopwatch(
    #[cfg(any(feature = "metrics", feature = "tracing"))] std::time::Instant,
);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            std::time::Instant::now(),
        )
    }

    fn elapsed(&self) -> Duration {
        #[cfg(any(feature = "metrics", feature = "tracing"))]
        return self.0.elapsed();
        #[cfg(not(any(feature = "metrics", feature = "tracing")))]
        return Duration::ZERO;
    }
}

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Counts and reports an error, if this is one. The caller holds no lock.
    pub(super) fn noting<T>(&self, operation: Operation, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            #[cfg(feature = "metrics")]
            {
                let key = (operation.label(), kind(error));
                *self.counters.lock().refusals.entry(key).or_default() += 1;
            }
            emit(|| PartitionEvent::Refused {
                device: self.device.ordinal(),
                operation: operation.label(),
                kind: kind(error),
                error: error.to_string(),
            });
        }
        result
    }

    /// Counts and reports a rebalance. The caller holds no lock.
    pub(super) fn note_rebalance(
        &self,
        favoured: Option<&Id>,
        hand_off: HandOff,
        made: usize,
        since: &Stopwatch,
    ) {
        let took = since.elapsed();
        #[cfg(feature = "metrics")]
        {
            let mut counters = self.counters.lock();
            counters.rebalances[hand_off as usize] += 1;
            counters.with_new_contexts += u64::from(made > 0);
            counters.took.note(took);
        }
        emit(|| PartitionEvent::Rebalanced {
            device: self.device.ordinal(),
            favoured: favoured.map(label),
            hand_off: hand_off.label(),
            made,
            took,
        });
    }

    /// Reports a change of the plan among processes. The caller holds no lock.
    pub(super) fn note_shares(&self, change: &PlanChange) {
        emit(|| {
            let names = change.names.iter();
            let names = names.map(|one| format!("{}: {}", one.name, one.sms_after));
            PartitionEvent::SharesChanged {
                device: self.device.ordinal(),
                generation: change.generation,
                partitions: names.collect::<Vec<_>>().join(", "),
                behind: (!change.behind.is_empty()).then(|| change.behind.join(", ")),
                took: change.took,
            }
        });
    }

    /// Reports that a partition has the SMs that a newer plan among processes gives to it. The caller holds no lock.
    pub(super) fn note_followed(&self, id: &Id, sms: u32, generation: u64) {
        emit(|| PartitionEvent::PlanFollowed {
            device: self.device.ordinal(),
            partition: label(id),
            sms,
            generation,
        });
    }

    /// Reports the partitions that a plan made. The caller holds no lock.
    pub(super) fn note_partitions(&self) {
        emit(|| {
            let status = self.status();
            let contexts = status.contexts.iter();
            let partitions = contexts.map(|one| format!("{}: {}", label(&one.id), one.sm_count));
            PartitionEvent::Partitioned {
                device: self.device.ordinal(),
                strategy: status.strategy,
                partitions: partitions.collect::<Vec<_>>().join(", "),
            }
        });
    }
}

impl Operation {
    fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Destroy => "destroy",
            Self::Rebalance => "rebalance",
            Self::Provision => "provision",
            Self::Release => "release",
            Self::SetShares => "set_shares",
        }
    }
}

/// Returns the kind of a refusal, as labels and events have it.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::AlreadyPartitioned { .. } => "already_partitioned",
        Error::ClusterUnavailable { .. } => "cluster_unavailable",
        Error::ContextExists { .. } => "context_exists",
        Error::ContextInCapture => "context_in_capture",
        Error::ContextInUse { .. } => "context_in_use",
        Error::ContextIsCurrent => "context_is_current",
        Error::Driver { .. } | Error::Poisoned { .. } => "driver",
        Error::IncompatibleResources { .. } => "incompatible_resources",
        Error::InsidePartitionStream => "inside_partition_stream",
        Error::InsufficientSms { .. } => "insufficient_sms",
        Error::InvalidArgument { .. } => "invalid_argument",
        Error::LimitedByMps { .. } => "limited_by_mps",
        Error::NoSuchContext { .. } => "no_such_context",
        Error::PartitionedElsewhere { .. } => "partitioned_elsewhere",
        Error::Sharing(_) => "sharing",
        Error::SplitRefused { .. } => "split_refused",
        Error::TooManyContexts { .. } => "too_many_contexts",
        Error::UnannouncedSizes { .. } => "unannounced_sizes",
        Error::UnitsTooCoarse { .. } => "units_too_coarse",
        Error::UnmetSplit { .. } => "unmet_split",
        Error::Unsupported { .. } | Error::MissingEntryPoint(_) => "unsupported",
        _ => "other",
    }
}

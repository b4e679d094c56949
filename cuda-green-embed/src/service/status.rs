//! The figures of a service.

use std::fmt;

use super::elastic::ElasticStatus;

/// The lane that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Lane {
    /// Latency first: an idle encoder takes a request at once.
    Interactive,
    /// Throughput first: batches are filled.
    Bulk,
}

impl Lane {
    /// Both lanes.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Bulk];

    /// Returns the name: `interactive`, `bulk`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether the lanes have SMs of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum ServiceMode {
    /// Each lane has its own SMs: bulk work does not delay a query on the GPU.
    Partitioned,
    /// Both lanes share the whole GPU: the driver or the GPU has no green contexts, so bulk work delays queries.
    SingleContext {
        /// The reason.
        reason: String,
    },
    /// The caller supplied the encoders, and knows where they run.
    OwnEncoders,
}

/// The figures of a service. They are read one after another while work goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct EmbedderStatus {
    /// Whether the lanes have SMs of their own.
    pub mode: ServiceMode,
    /// The error for which the service is dead, if it is. It answers nothing any more then.
    pub dead: Option<String>,
    /// The layout of the lanes' SMs, and how often it has changed, if the lanes were to be
    /// [elastic](super::EmbedderBuilder::elastic).
    pub elastic: Option<ElasticStatus>,
    /// The interactive lane.
    pub interactive: LaneStatus,
    /// The bulk lane.
    pub bulk: LaneStatus,
    /// The GPUs, in the order in which they were given.
    pub gpus: Vec<GpuStatus>,
}

/// The figures of one GPU of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GpuStatus {
    /// The ordinal of the device, if the service knows.
    pub device: Option<u32>,
    /// The interactive lane's part in it.
    pub interactive: ReplicaStatus,
    /// The bulk lane's part in it.
    pub bulk: ReplicaStatus,
}

/// The figures of a lane on one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// The lane's SMs there, if the service knows.
    pub sms: Option<u32>,
    /// Batches that were submitted there.
    pub batches: u64,
    /// Batches that are on the way there.
    pub on_the_way: usize,
    /// The error for which it gets no work any more.
    pub failed: Option<String>,
}

impl GpuStatus {
    /// Returns the figures of a lane.
    pub fn lane(&self, lane: Lane) -> &ReplicaStatus {
        match lane {
            Lane::Interactive => &self.interactive,
            Lane::Bulk => &self.bulk,
        }
    }
}

/// The figures of one lane, in texts unless they say otherwise. Each text that was taken is queued, on the way, or
/// counted as done, failed, cancelled or expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LaneStatus {
    /// Texts that wait.
    pub queued: usize,
    /// The most texts that may wait.
    pub limit: usize,
    /// Texts in batches that were submitted and have not ended.
    pub on_the_way: usize,
    /// Texts whose vectors were computed, also if nobody waited for them any more.
    pub done: u64,
    /// Texts that ended with an error, that of the tokeniser included, but for those below.
    pub failed: u64,
    /// Texts that were given up before they were submitted.
    pub cancelled: u64,
    /// Texts whose deadline passed before they were submitted.
    pub expired: u64,
    /// Texts that were refused since too many waited. They were never queued.
    pub overloaded: u64,
    /// Batches that were submitted.
    pub batches: u64,
    /// The lane's SMs, if the service knows.
    pub sms: Option<u32>,
}

impl EmbedderStatus {
    /// Returns the figures of a lane.
    pub fn lane(&self, lane: Lane) -> &LaneStatus {
        match lane {
            Lane::Interactive => &self.interactive,
            Lane::Bulk => &self.bulk,
        }
    }
}

impl fmt::Display for EmbedderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mode {
            ServiceMode::Partitioned => f.write_str("partitioned")?,
            ServiceMode::SingleContext { reason } => {
                write!(f, "single context, so bulk work delays queries: {reason}")?
            }
            ServiceMode::OwnEncoders => f.write_str("encoders of the caller")?,
        }
        if let Some(elastic) = &self.elastic {
            write!(f, "\n{elastic}")?;
        }
        if let Some(error) = &self.dead {
            write!(f, "\ndead: {error}")?;
        }
        for lane in Lane::ALL {
            write!(f, "\n{lane:<11}  {}", self.lane(lane))?;
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            for lane in Lane::ALL {
                if let Some(error) = &gpu.lane(lane).failed {
                    write!(f, "\nGPU {index} failed in the {lane} lane: {error}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for LaneStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(sms) = self.sms {
            write!(f, "{sms} SMs, ")?;
        }
        write!(
            f,
            "{} of {} queued, {} on the way; {} done in {} batches, {} failed, {} cancelled, {} expired, {} overloaded",
            self.queued,
            self.limit,
            self.on_the_way,
            self.done,
            self.batches,
            self.failed,
            self.cancelled,
            self.expired,
            self.overloaded
        )
    }
}

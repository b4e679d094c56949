//! What a manager has given to whom: values for people and for programs.

use std::fmt;

use crate::{ContextPriority, planner::SplitStrategy};

/// The contexts of a quad partition. Programs with other needs bring ids of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContextId {
    /// The latency-critical work.
    Embedding,
    /// Background work that gives way.
    Dream,
    /// Training.
    Training,
    /// Whatever else; has the SMs that do not divide.
    Reserved,
}

impl ContextId {
    /// All of them, in the order of a quad partition.
    pub const ALL: [Self; 4] = [Self::Embedding, Self::Dream, Self::Training, Self::Reserved];
}

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether the device is really partitioned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionMode {
    /// Contexts have SMs of their own.
    Partitioned,
    /// Every id stands for the one context of the whole GPU.
    SingleContext {
        /// Why.
        reason: String,
    },
}

/// What a manager has given to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllocationStatus<Id = ContextId> {
    /// Whether the driver is a simulated one, with no GPU behind it.
    pub simulated: bool,
    /// Whether the device is really partitioned.
    pub mode: PartitionMode,
    /// How the sizes in force were met; none while nothing is partitioned.
    pub strategy: Option<SplitStrategy>,
    /// SMs of the device.
    pub total_sms: u32,
    /// SMs that contexts have. In single-context mode all, as soon as there is a context.
    pub allocated_sms: u32,
    /// SMs that further contexts could have.
    pub available_sms: u32,
    /// SMs that nobody has and nobody can be given.
    pub stranded_sms: u32,
    /// Why they are stranded.
    pub stranded_reason: Option<String>,
    /// Green contexts that are kept: those in force, those that rebalances can put into force, and siblings
    /// for further threads.
    pub green_contexts: usize,
    /// Device memory that they take, in bytes, by what one takes on an H200.
    pub green_context_bytes: u64,
    /// The contexts, in the order of their creation.
    pub contexts: Vec<ContextStatus<Id>>,
}

/// One context of an [`AllocationStatus`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextStatus<Id = ContextId> {
    /// Its id.
    pub id: Id,
    /// SMs that it was to have.
    pub requested_sms: u32,
    /// SMs that it has.
    pub sm_count: u32,
    /// How many of them are co-scheduled together.
    pub coscheduled_sms: u32,
    /// The largest thread-block cluster that is sure to run in it, in blocks.
    pub max_cluster_size: u32,
    /// The priority of its streams.
    pub priority: ContextPriority,
    /// Whether a rebalance may take SMs from it.
    pub preemptible: bool,
    /// The limit of its memory pool in bytes.
    pub memory_limit_bytes: u64,
    /// Bytes in use of its memory pool.
    pub memory_used_bytes: u64,
}

impl<Id: fmt::Debug> fmt::Display for AllocationStatus<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            total_sms,
            allocated_sms,
            available_sms,
            stranded_sms,
            ..
        } = self;
        if self.simulated {
            f.write_str("SIMULATED: ")?;
        }
        write!(
            f,
            "{allocated_sms} of {total_sms} SMs allocated, {available_sms} available, {stranded_sms} stranded"
        )?;
        if let Some(reason) = &self.stranded_reason {
            write!(f, " ({reason})")?;
        }
        if let PartitionMode::SingleContext { reason } = &self.mode {
            write!(f, "; single-context mode: {reason}")?;
        }
        for context in &self.contexts {
            let ContextStatus {
                id,
                sm_count,
                requested_sms,
                priority,
                ..
            } = context;
            write!(
                f,
                "\n  {id:?}: {sm_count} SMs ({requested_sms} asked), priority {priority:?}"
            )?;
        }
        Ok(())
    }
}

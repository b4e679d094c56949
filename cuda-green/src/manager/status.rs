//! The status of a manager: which SMs each context has, and which are free; for people and for programs.

use std::{fmt, sync::Arc};

use cuda_green_sys::CudaVersion;

use super::{
    join::Shared, label::label, layout::Layout, mode::PartitionMode, quad::ContextId,
    retention::GREEN_CONTEXT_BYTES, state::ManagerState,
};
use crate::{
    device::ContextPriority,
    partition::{ContextPolicy, ContextSms, GreenContext, WorkqueueIsolation},
    planner::{self, RefusedPlan, SplitStrategy},
    sharing::SharedStatus,
};

/// The status of a manager: the SMs that each context has, and those that are free.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllocationStatus<Id = ContextId> {
    /// Whether the driver is a simulated one, with no GPU behind it.
    pub simulated: bool,
    /// Whether the device is really partitioned.
    pub mode: PartitionMode,
    /// The way in which the device is split; none while it is not.
    pub strategy: Option<SplitStrategy>,
    /// The split in words, and why it is this one: what the driver's version offers, and which plans the driver
    /// refused.
    pub strategy_reason: Option<String>,
    /// Better plans that the driver refused before the one in force (915).
    pub refused: Vec<RefusedPlan>,
    /// Green contexts that exist only to be split further (12.4): 5 MiB of device memory each (measured on an H200).
    pub scaffold_contexts: usize,
    /// SMs of the device.
    pub total_sms: u32,
    /// SMs that contexts have. In single-context mode all, once there is a context.
    pub allocated_sms: u32,
    /// SMs that further contexts could have.
    pub available_sms: u32,
    /// SMs that no context has in force, and that no other can be given yet: those that a name lent to one that is
    /// gone, which it gets back at the next rebalance; and those that are still held after their name was destroyed, by SM
    /// resources that were asked of its contexts, contexts made of those, and contexts that could not be destroyed. Of a
    /// manager that joined a plan among processes, all SMs that its names do not have.
    pub held_sms: u32,
    /// SMs that no context has and none can be given.
    pub stranded_sms: u32,
    /// The reason why they are stranded.
    pub stranded_reason: Option<String>,
    /// Green contexts: those in force, those that rebalances can put into force, and siblings for further threads.
    pub green_contexts: usize,
    /// Device memory that they take, in bytes: their number times what one takes on an H200.
    pub green_context_bytes: u64,
    /// The plan among processes, and who holds its names, if the manager joined one.
    pub shared: Option<SharedStatus>,
    /// The contexts, in the order of their creation.
    pub contexts: Vec<ContextStatus<Id>>,
}

/// One context of an [`AllocationStatus`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextStatus<Id = ContextId> {
    /// Its id.
    pub id: Id,
    /// SMs that it was created to have.
    pub requested_sms: u32,
    /// SMs that it has.
    pub sm_count: u32,
    /// How many of them are co-scheduled together.
    pub coscheduled_sms: u32,
    /// The largest thread-block cluster that is sure to run in it, in blocks.
    pub max_cluster_size: u32,
    /// The priority of its streams.
    pub priority: ContextPriority,
    /// Whether its work can wait behind another context's in a workqueue (13.1 and later keep workqueues apart).
    pub workqueues: WorkqueueIsolation,
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
            held_sms,
            stranded_sms,
            ..
        } = self;
        if self.simulated {
            f.write_str("SIMULATED: ")?;
        }
        write!(
            f,
            "{allocated_sms} of {total_sms} SMs allocated, {available_sms} free, {stranded_sms} stranded"
        )?;
        if let Some(reason) = &self.stranded_reason {
            write!(f, " ({reason})")?;
        }
        match (held_sms, &self.shared) {
            (0, _) => {}
            (sms, None) => write!(f, ", {sms} held")?,
            (sms, Some(_)) => write!(f, ", {sms} not this manager's")?,
        }
        if let PartitionMode::SingleContext { reason } = &self.mode {
            write!(f, ". Single-context mode: {reason}")?;
        }
        if let Some(reason) = &self.strategy_reason {
            write!(f, ". Split: {reason}")?;
        }
        if self.scaffold_contexts > 0 {
            write!(f, ". {} scaffold contexts", self.scaffold_contexts)?;
        }
        for context in &self.contexts {
            let ContextStatus {
                id,
                sm_count,
                requested_sms,
                max_cluster_size,
                priority,
                ..
            } = context;
            write!(
                f,
                "\n  {}: {sm_count} SMs ({requested_sms} requested), priority {priority:?}",
                label(id)
            )?;
            if *max_cluster_size > 1 {
                write!(f, ", clusters of {max_cluster_size}")?;
            }
        }
        match &self.shared {
            Some(shared) => write!(f, "\n{shared}"),
            None => Ok(()),
        }
    }
}

impl<Id: Clone + Eq + fmt::Debug> ManagerState<Id> {
    /// Returns the SMs that each context has, and those that are free.
    pub(super) fn status(&self) -> AllocationStatus<Id> {
        let (status, contexts) = self.with_tidied_layout(|layout| self.survey(layout));
        // Ids are copied with no lock held.
        let contexts = contexts.into_iter();
        let contexts = contexts.map(|(id, seen)| ContextStatus::of(Id::clone(&id), seen));
        AllocationStatus {
            contexts: contexts.collect(),
            shared: self.shared.as_ref().map(Shared::status),
            ..status
        }
    }

    /// Returns the status without the contexts, and these.
    fn survey(&self, layout: Option<&Layout>) -> (AllocationStatus<Id>, Vec<(Arc<Id>, Seen)>) {
        let (available, stranded) = self.remaining(layout);
        let (contexts, green_contexts) = self
            .registry
            .survey(|id, context| (Arc::clone(id), Seen::of(context)));
        let allocated = if self.mode == PartitionMode::Partitioned {
            contexts.iter().map(|(_, seen)| seen.sms.sm_count).sum()
        } else if contexts.is_empty() {
            0
        } else {
            self.facts.sm_count
        };
        // One context could take at most `available`; several could share this much.
        let free = layout.map_or(available, Layout::free);
        let driver = self.facts.capabilities.driver;
        let status = AllocationStatus {
            simulated: self.device.driver().is_simulated(),
            green_contexts,
            green_context_bytes: green_contexts as u64 * GREEN_CONTEXT_BYTES,
            mode: self.mode.clone(),
            strategy: layout.map(|layout| layout.strategy),
            strategy_reason: layout.map(|layout| split_in_words(layout, driver)),
            refused: layout.map_or_else(Vec::new, |layout| layout.refused.clone()),
            scaffold_contexts: layout.map_or(0, Layout::scaffolds),
            total_sms: self.facts.sm_count,
            allocated_sms: allocated,
            available_sms: free,
            held_sms: if self.mode == PartitionMode::Partitioned {
                self.facts
                    .sm_count
                    .saturating_sub(allocated + free + stranded)
            } else {
                0
            },
            stranded_sms: stranded,
            stranded_reason: self.facts.stranded_reason(stranded),
            shared: None,
            contexts: Vec::new(),
        };
        (status, contexts)
    }

    /// Returns the number of SMs that one more context could get, and that of stranded SMs.
    pub(super) fn remaining(&self, layout: Option<&Layout>) -> (u32, u32) {
        match layout {
            Some(layout) => (layout.available(), layout.stranded()),
            None if self.mode == PartitionMode::Partitioned => (self.facts.sm_count, 0),
            None => {
                let is_empty = self.registry.len() == 0;
                (if is_empty { self.facts.sm_count } else { 0 }, 0)
            }
        }
    }
}

/// Returns the split in words, and why it is this one.
fn split_in_words(layout: &Layout, driver: CudaVersion) -> String {
    let strategy = layout.strategy;
    let split = match (strategy, layout.unit()) {
        (SplitStrategy::StructuredUnits, Some(unit)) => {
            format!("units of {unit} SMs of one structured split, merged")
        }
        (SplitStrategy::MergedUnits, Some(unit)) => format!("units of {unit} SMs, merged"),
        (SplitStrategy::MergedFineUnits, Some(unit)) => {
            format!("units of {unit} SMs that ignore co-scheduling, merged")
        }
        _ => strategy.to_string(),
    };
    let merges = layout.facts.capabilities.merge;
    let why = planner::refusals(&layout.refused).unwrap_or_else(|| {
        let why = match strategy {
            SplitStrategy::EqualGroups | SplitStrategy::Nested if merges => {
                "units that merge do not add up to these sizes"
            }
            SplitStrategy::EqualGroups => "it cannot merge, and the sizes need no further split",
            SplitStrategy::Nested => "it cannot merge",
            SplitStrategy::MergedFineUnits => "units of 2 SMs give exact sizes",
            SplitStrategy::StructuredUnits
            | SplitStrategy::Structured
            | SplitStrategy::MergedUnits => return format!("what CUDA {driver} offers"),
        };
        format!("CUDA {driver}: {why}")
    });
    format!("{split} ({why})")
}

/// The facts about a context, as they were seen under the lock.
struct Seen {
    policy: ContextPolicy,
    sms: ContextSms,
    workqueues: WorkqueueIsolation,
    memory_used: u64,
}

impl Seen {
    fn of(context: &GreenContext) -> Self {
        Self {
            policy: *context.policy(),
            sms: context.sms(),
            workqueues: context.workqueue_isolation().clone(),
            memory_used: context.memory_used(),
        }
    }
}

impl<Id> ContextStatus<Id> {
    fn of(id: Id, seen: Seen) -> Self {
        let Seen {
            policy,
            sms,
            workqueues,
            memory_used,
        } = seen;
        Self {
            id,
            requested_sms: sms.requested_sms,
            sm_count: sms.sm_count,
            coscheduled_sms: sms.coscheduled,
            max_cluster_size: sms.max_cluster,
            priority: policy.priority,
            workqueues,
            preemptible: policy.preemptible,
            memory_limit_bytes: policy.memory_limit_bytes,
            memory_used_bytes: memory_used,
        }
    }
}

//! The preset: four partitions of a quarter each, and the hints by which they are rebalanced.

use std::{fmt, sync::Arc};

use super::{rebalance::Shift, state::ManagerState};
use crate::{device::ContextPriority, error::Result, partition::ContextPolicy};

/// 8 GiB, the memory limit of each context of a quad partition.
const QUAD_MEMORY_LIMIT: u64 = 8 << 30;

/// The contexts of a quad partition. Programs with other needs bring their own ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContextId {
    /// The latency-critical work.
    Embedding,
    /// Background work that gives way.
    Dream,
    /// Training.
    Training,
    /// Everything else; has the SMs that do not divide.
    Reserved,
}

/// A hint at the work that should have more of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RebalanceHint {
    /// `Embedding` gets half of what the preemptible others were created with.
    EmbeddingHeavy,
    /// `Training` gets it.
    TrainingActive,
    /// `Dream` gets it.
    DreamActive,
    /// Each has the SMs that it was created with.
    Balanced,
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

impl RebalanceHint {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::EmbeddingHeavy,
        Self::TrainingActive,
        Self::DreamActive,
        Self::Balanced,
    ];

    /// Returns the context that the hint favours.
    pub(super) fn favoured(self) -> Option<ContextId> {
        match self {
            Self::EmbeddingHeavy => Some(ContextId::Embedding),
            Self::TrainingActive => Some(ContextId::Training),
            Self::DreamActive => Some(ContextId::Dream),
            Self::Balanced => None,
        }
    }
}

impl ManagerState<ContextId> {
    /// Creates the four contexts, each of a quarter of the device.
    pub(super) fn init_quad_partition(&self) -> Result<()> {
        let policy = |priority, preemptible| ContextPolicy {
            priority,
            memory_limit_bytes: QUAD_MEMORY_LIMIT,
            preemptible,
        };
        let contexts = [
            (
                ContextId::Embedding,
                policy(ContextPriority::Critical, false),
            ),
            (ContextId::Dream, policy(ContextPriority::Low, true)),
            (ContextId::Training, policy(ContextPriority::Medium, true)),
            (ContextId::Reserved, policy(ContextPriority::Medium, true)),
        ];
        let contexts = contexts.map(|(id, policy)| (Arc::new(id), policy));
        self.create_from_plan(&contexts, &self.facts.equal_targets(4))
    }

    /// Makes the contexts of every hint; returns the number of green contexts that the manager then has.
    pub(super) fn provision_hints(&self) -> Result<usize> {
        let favoured = RebalanceHint::ALL.map(RebalanceHint::favoured);
        let shifts = favoured.each_ref().map(|one| Shift::from(one.as_ref()));
        self.provision_rebalances(&shifts)?;
        Ok(self.registry.green_contexts())
    }
}

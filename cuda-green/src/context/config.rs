//! What a context is to have: its size, priority, memory limit.

use crate::{Error, Result};

/// How important a context's work is.
///
/// CUDA offers a priority for streams: among blocks that wait for the same SMs, those of the stream with
/// the higher priority go first. Nothing takes an SM from a block that runs. Contexts with SMs of their
/// own do not wait for each other at all, so the priority matters inside a partition, and for all work
/// in single-context mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ContextPriority {
    /// Gives way to all other work.
    Low,
    /// As usual.
    #[default]
    Medium,
    /// Rarely gives way.
    High,
    /// Never gives way.
    Critical,
}

impl ContextPriority {
    /// Spreads the four levels over what a device offers; lower numbers come first.
    pub(crate) fn within(self, least: i32, greatest: i32) -> i32 {
        let range = f64::from(greatest) - f64::from(least);
        let share = match self {
            Self::Low => 0.0,
            Self::Medium => 1.0 / 3.0,
            Self::High => 2.0 / 3.0,
            Self::Critical => 1.0,
        };
        (f64::from(least) + range * share).round() as i32
    }
}

/// What a context is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreenContextConfig {
    /// SMs, at least; what it really got is [`GreenContext::sm_count`](crate::GreenContext::sm_count). Plays no
    /// part where a [`PartitionRequest`](crate::planner::PartitionRequest) says the size.
    pub sm_count: u32,
    /// The priority of its streams.
    pub priority: ContextPriority,
    /// The limit of its memory pool in bytes; `u64::MAX` for none.
    pub memory_limit_bytes: u64,
    /// Whether a rebalance may give SMs of it to others.
    pub preemptible: bool,
}

impl Default for GreenContextConfig {
    /// No SMs yet, medium priority, no memory limit, preemptible.
    fn default() -> Self {
        Self {
            sm_count: 0,
            priority: ContextPriority::default(),
            memory_limit_bytes: u64::MAX,
            preemptible: true,
        }
    }
}

impl GreenContextConfig {
    /// The same for another size.
    pub(crate) fn sized(self, sm_count: u32) -> Self {
        Self { sm_count, ..self }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |name, value: String, reason| {
            Err(Error::InvalidArgument {
                name,
                value,
                reason,
            })
        };
        if self.sm_count == 0 {
            return invalid("sm_count", "0".into(), "a context has at least one SM");
        }
        if self.memory_limit_bytes == 0 {
            return invalid(
                "memory_limit_bytes",
                "0".into(),
                "no buffer would fit; u64::MAX is no limit",
            );
        }
        if self.preemptible && self.priority == ContextPriority::Critical {
            return invalid(
                "preemptible",
                "true".into(),
                "a critical context is never preempted",
            );
        }
        Ok(())
    }
}

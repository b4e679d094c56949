//! What a context is to have: its size, priority, memory limit.

use crate::{
    device::ContextPriority,
    error::{Error, Result},
};

/// What a context is to have. In a literal, `..GreenContextConfig::default()` takes in what later versions add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

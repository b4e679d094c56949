//! The settings of a context: its size, and its policy.

use crate::{
    device::ContextPriority,
    error::{Error, Result},
};

/// The size and the policy of a context. In a literal, `..GreenContextConfig::default()` takes in the fields that later
/// versions add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GreenContextConfig {
    /// The least number of SMs; [`GreenContext::sm_count`](crate::GreenContext::sm_count) is the number it got.
    pub sm_count: u32,
    /// The priority of its streams.
    pub priority: ContextPriority,
    /// The limit of its memory pool in bytes; `u64::MAX` for none.
    pub memory_limit_bytes: u64,
    /// Whether a rebalance may give SMs of it to others.
    pub preemptible: bool,
}

/// The settings of a context other than its size, for calls that take the size from elsewhere: a
/// [`PartitionRequest`](crate::planner::PartitionRequest), or the whole device. In a literal,
/// `..ContextPolicy::default()` takes in the fields that later versions add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextPolicy {
    /// The priority of its streams.
    pub priority: ContextPriority,
    /// The limit of its memory pool in bytes; `u64::MAX` for none.
    pub memory_limit_bytes: u64,
    /// Whether a rebalance may give SMs of it to others.
    pub preemptible: bool,
}

impl Default for GreenContextConfig {
    /// Returns no SMs yet, and the default policy.
    fn default() -> Self {
        let ContextPolicy {
            priority,
            memory_limit_bytes,
            preemptible,
        } = ContextPolicy::default();
        Self {
            sm_count: 0,
            priority,
            memory_limit_bytes,
            preemptible,
        }
    }
}

impl Default for ContextPolicy {
    /// Returns medium priority, no memory limit, preemptible.
    fn default() -> Self {
        Self {
            priority: ContextPriority::default(),
            memory_limit_bytes: u64::MAX,
            preemptible: true,
        }
    }
}

impl GreenContextConfig {
    /// Returns the settings other than the size.
    pub fn policy(&self) -> ContextPolicy {
        ContextPolicy {
            priority: self.priority,
            memory_limit_bytes: self.memory_limit_bytes,
            preemptible: self.preemptible,
        }
    }

    /// Refuses a size or a policy that can never work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.sm_count == 0 {
            return invalid("sm_count", "0", "a context has at least one SM");
        }
        self.policy().check()
    }
}

impl ContextPolicy {
    /// Refuses a policy that can never work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.memory_limit_bytes == 0 {
            return invalid(
                "memory_limit_bytes",
                "0",
                "no buffer would fit; u64::MAX is no limit",
            );
        }
        if self.preemptible && self.priority == ContextPriority::Critical {
            return invalid(
                "preemptible",
                "true",
                "a critical context is never preempted",
            );
        }
        Ok(())
    }
}

fn invalid(name: &'static str, value: &str, reason: &'static str) -> Result<()> {
    Err(Error::InvalidArgument {
        name,
        value: value.to_owned(),
        reason,
    })
}

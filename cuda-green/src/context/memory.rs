//! A context's memory: one pool with the configured limit, created at first use.

use std::sync::OnceLock;

use crate::{
    error::{Error, Result},
    memory::{GpuMemoryPool, MemoryBudget},
    once::Once,
    partition::{GreenContext, MemorySlot},
};

/// The memory pool of a context, or of all contexts that replace each other under one name.
#[derive(Default)]
pub(super) struct ContextMemory {
    pool: Once<GpuMemoryPool>,
    /// The budget that contains the pool's limit.
    budget: OnceLock<MemoryBudget>,
}

impl ContextMemory {
    /// Makes the memory of a new context, without a pool yet.
    pub(super) fn slot() -> MemorySlot {
        MemorySlot::new(Self::default())
    }
}

impl GreenContext {
    /// Returns the context's memory pool, with the limit of its policy. The pool is created at the first call.
    ///
    /// # Errors
    /// Those of [`GpuMemoryPool::on`].
    pub fn memory(&self) -> Result<&GpuMemoryPool> {
        let memory = self.memory_slot();
        memory.pool.get_or_make(|| {
            let limit = self.policy().memory_limit_bytes;
            match memory.budget.get() {
                Some(budget) => GpuMemoryPool::within(self.device(), budget, limit),
                None => GpuMemoryPool::on(self.device(), limit),
            }
        })
    }

    /// Returns the bytes in use of the context's memory pool; 0 if the pool does not exist yet.
    pub fn memory_used(&self) -> u64 {
        self.memory_if_made().map_or(0, GpuMemoryPool::used)
    }

    /// Returns the context's memory pool, if it exists.
    pub(crate) fn memory_if_made(&self) -> Option<&GpuMemoryPool> {
        self.memory_slot().pool.get()
    }

    /// Puts the limit of the context's memory pool within a budget. This must happen before the pool's first use. A
    /// manager can do it for all its contexts:
    /// [`with_memory_budget`](crate::SmPartitionManager::with_memory_budget).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the pool exists or has a budget already.
    pub fn set_memory_budget(&self, budget: &MemoryBudget) -> Result<()> {
        let memory = self.memory_slot();
        let set = || memory.budget.set(budget.clone()).is_ok();
        if memory.pool.before_made(set) == Some(true) {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            name: "budget",
            value: format!("{budget:?}"),
            reason: "the context's memory pool exists or has a budget already; set the budget once, before first use",
        })
    }

    fn memory_slot(&self) -> &ContextMemory {
        match self.inner.memory.get() {
            Some(memory) => memory,
            None => unreachable!("every context is made by this room, with a slot of this type"),
        }
    }
}

//! A context's memory: one pool under its limit, made when it is first asked for.

use std::sync::OnceLock;

use crate::{
    error::{Error, Result},
    memory::{GpuMemoryPool, MemoryBudget},
    once::Once,
    partition::{GreenContext, MemorySlot},
};

/// The pool of a context, or of all contexts that take each other's place under one name.
#[derive(Default)]
pub(super) struct Memory {
    pool: Once<GpuMemoryPool>,
    /// What the pool's limit is to stand within.
    budget: OnceLock<MemoryBudget>,
}

impl Memory {
    pub(super) fn slot() -> MemorySlot {
        MemorySlot::new(Self::default())
    }
}

impl GreenContext {
    /// Its memory pool, with the limit of its policy; made at the first call.
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

    /// Bytes in use of its memory pool; 0 if it was never asked for.
    pub fn memory_used(&self) -> u64 {
        self.memory_if_made().map_or(0, GpuMemoryPool::used)
    }

    /// Its memory pool, if it was ever asked for.
    pub(crate) fn memory_if_made(&self) -> Option<&GpuMemoryPool> {
        self.memory_slot().pool.get()
    }

    /// Puts the limit of its memory pool within a budget, before the pool is first asked for. A manager does
    /// that by itself: [`SmPartitionManager::with_memory_budget`](crate::SmPartitionManager).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the pool has been made, or a budget has been given, already.
    pub fn set_memory_budget(&self, budget: &MemoryBudget) -> Result<()> {
        let memory = self.memory_slot();
        let set = || memory.budget.set(budget.clone()).is_ok();
        if memory.pool.before_made(set) == Some(true) {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            name: "budget",
            value: format!("{budget:?}"),
            reason: "the context's memory pool has its place already",
        })
    }

    fn memory_slot(&self) -> &Memory {
        match self.inner.memory.get() {
            Some(memory) => memory,
            None => unreachable!("every context is made by this room, with a slot of this type"),
        }
    }
}

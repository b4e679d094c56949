//! The memory of a manager's contexts: their limits within one budget, and their figures in one table.

use std::{fmt::Debug, sync::Arc};

use super::{Entry, SmPartitionManager, label};
use crate::{
    error::{Error, Result},
    memory::{GpuMemoryPool, MemoryBudget, MemoryReport},
    partition::GreenContext,
};

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// Puts the memory limits of all contexts within one budget, the device's: together they never use more,
    /// whatever their own limits add up to. Models' limits stand within a context's in turn:
    /// [`GpuMemoryPool::child`], [`ModelSlots`](crate::ModelSlots).
    ///
    /// ```
    /// use cuda_green::{ContextId, Driver, MemoryBudget, SmPartitionManager};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let budget = MemoryBudget::new(20 << 30)?;
    /// let manager = SmPartitionManager::on(&device)?.with_memory_budget(&budget)?;
    /// manager.init_quad_partition()?; // 8 GiB each, and 20 GiB together
    ///
    /// let dream = manager.get_context(ContextId::Dream)?;
    /// let buffer = dream.memory()?.allocate(7 << 30)?;
    /// assert_eq!((budget.used(), budget.available()), (7 << 30, 13 << 30));
    /// println!("{}", manager.memory_report());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::AlreadyPartitioned`] where there are contexts.
    pub fn with_memory_budget(mut self, budget: &MemoryBudget) -> Result<Self> {
        let contexts = self.names.read(<[_]>::len);
        if contexts > 0 {
            return Err(Error::AlreadyPartitioned { contexts });
        }
        self.memory = Some(budget.clone());
        Ok(self)
    }

    /// The budget that the contexts' limits stand within, if there is one.
    pub fn memory_budget(&self) -> Option<&MemoryBudget> {
        self.memory.as_ref()
    }

    /// The memory figures of the budget (`device`) and of each context whose pool was asked for.
    pub fn memory_report(&self) -> MemoryReport {
        // The pools, and not the contexts: a handle of one would keep it from being destroyed.
        let pools: Vec<(Arc<Id>, GpuMemoryPool)> = self.names.read(|contexts| {
            let pool = |entry: &Entry<Id>| {
                let pool = entry.context().memory_if_made()?;
                Some((Arc::clone(&entry.id), pool.clone()))
            };
            contexts.iter().filter_map(pool).collect()
        });
        let mut report = MemoryReport::default();
        if let Some(budget) = &self.memory {
            report = report.with_budget("device", budget);
        }
        pools.iter().fold(report, |report, (id, pool)| {
            report.with_pool(label(id), pool)
        })
    }

    /// A new context under its name, its memory limit within the budget.
    pub(super) fn entry(
        &self,
        id: Arc<Id>,
        context: GreenContext,
        pieces: Vec<usize>,
    ) -> Result<Entry<Id>> {
        if let Some(budget) = &self.memory {
            context.set_memory_budget(budget)?;
        }
        Ok(Entry::new(id, context, pieces))
    }
}

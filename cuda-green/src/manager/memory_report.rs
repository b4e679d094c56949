//! The memory of a manager's contexts: their limits within one budget, and their figures in one table.

use std::{fmt::Debug, sync::Arc};

use super::{label::label, state::ManagerState};
use crate::{
    error::{Error, Result},
    memory::MemoryBudget,
    names::{NamedPartition, Pieces},
    partition::GreenContext,
    report::MemoryReport,
};

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Puts the memory limits of all contexts within a budget, before there are any.
    pub(super) fn set_memory_budget(&self, budget: &MemoryBudget) -> Result<()> {
        let contexts = self.registry.len();
        if contexts > 0 {
            return Err(Error::AlreadyPartitioned { contexts });
        }
        if self.memory_budget.set(budget.clone()).is_err() {
            return Err(Error::InvalidArgument {
                name: "budget",
                value: budget.limit().to_string(),
                reason: "the manager has a memory budget already",
            });
        }
        Ok(())
    }

    /// Returns the memory figures of the budget (`device`) and of each context whose pool was asked for.
    pub(super) fn memory_report(&self) -> MemoryReport {
        // The pools, and not the contexts: a handle of one would keep it from being destroyed.
        let pools = self.registry.each_in_force(|id, context| {
            let pool = context.memory_if_made()?;
            Some((Arc::clone(id), pool.clone()))
        });
        let mut report = MemoryReport::default();
        if let Some(budget) = self.memory_budget.get() {
            report = report.with_budget("device", budget);
        }
        pools.iter().flatten().fold(report, |report, (id, pool)| {
            report.with_pool(label(id), pool)
        })
    }

    /// Puts a new context under a name, and its memory limit within the budget.
    pub(super) fn named(
        &self,
        id: Arc<Id>,
        context: GreenContext,
        pieces: Pieces,
    ) -> Result<NamedPartition<Id>> {
        if let Some(budget) = self.memory_budget.get() {
            context.set_memory_budget(budget)?;
        }
        Ok(NamedPartition::new(id, context, pieces))
    }
}

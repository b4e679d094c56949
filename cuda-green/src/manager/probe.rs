//! A probe of all partitions for work of others on their SMs.

use std::fmt;

use super::{label::label, state::ManagerState};
use crate::{error::Result, probe::ContextProbe};

/// The result of [`SmPartitionManager::probe`](crate::SmPartitionManager::probe).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe<Id> {
    /// The result of each context's probe, in the order of the contexts.
    pub contexts: Vec<(Id, ContextProbe)>,
}

impl<Id> Probe<Id> {
    /// Returns whether somebody else was seen on the SMs of a context.
    pub fn is_disturbed(&self) -> bool {
        let mut contexts = self.contexts.iter();
        contexts.any(|(_, probe)| matches!(probe, ContextProbe::Disturbed { .. }))
    }
}

impl<Id: fmt::Debug> fmt::Display for Probe<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (id, probe)) in self.contexts.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{}: {probe}", label(id))?;
        }
        Ok(())
    }
}

impl<Id: Clone + Eq + fmt::Debug> ManagerState<Id> {
    /// Looks for work of others on the SMs of every context.
    pub(super) fn probe(&self) -> Result<Probe<Id>> {
        let contexts = self.in_force();
        let probed = contexts
            .into_iter()
            .map(|(id, context)| Ok((id, context.probe()?)));
        Ok(Probe {
            contexts: probed.collect::<Result<_>>()?,
        })
    }
}

//! A probe of all partitions: whether anybody else works on their SMs.

use std::fmt;

use super::{SmPartitionManager, label};
use crate::{error::Result, probe::ContextProbe};

/// The result of [`SmPartitionManager::probe`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe<Id> {
    /// What each context's probe saw, in the order of the contexts.
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

impl<Id: Clone + Eq + fmt::Debug> SmPartitionManager<Id> {
    /// Looks for work of others on the SMs of every context that has nothing to do itself: see
    /// [`GreenContext::probe`](crate::GreenContext::probe), which says what that can see and what it cannot.
    ///
    /// It finds what [`verify`](Self::verify) and [`check_streams`](Self::check_streams) cannot know of: streams that
    /// nobody listed, in the primary context or in contexts made by hand, and other processes. Takes about 3 ms for
    /// each context where nobody else is there. In single-context mode, where all contexts are the whole device,
    /// the program's own work counts as somebody else's.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn probe(&self) -> Result<Probe<Id>> {
        let contexts = self.in_force();
        let probed = contexts
            .into_iter()
            .map(|(id, context)| Ok((id, context.probe()?)));
        Ok(Probe {
            contexts: probed.collect::<Result<_>>()?,
        })
    }
}

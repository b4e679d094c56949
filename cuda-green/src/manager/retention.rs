//! How many green contexts a manager keeps, and which of them it gives up.

use std::{fmt::Debug, sync::atomic::Ordering};

use super::{Entry, SmPartitionManager, observe::Operation, registry::Retired};
use crate::{
    error::{Error, Result},
    events::{PartitionEvent, emit},
    partition::{GreenContext, Later},
};

/// Device memory that a green context takes: 5 MiB (measured on an H200, driver 580).
pub const GREEN_CONTEXT_BYTES: u64 = 5 << 20;

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// Bounds how many green contexts are kept, with [`GREEN_CONTEXT_BYTES`] of device memory each; without
    /// a limit, which is the default, every layout that was ever used is kept for the next time.
    ///
    /// Where a rebalance would need more, contexts that are not in force and that nobody uses are
    /// destroyed first, the oldest first. Siblings, which threads get on their own, count, but are never
    /// refused. A limit below what is kept now destroys nothing; [`release_retired`](Self::release_retired)
    /// does.
    pub fn set_context_limit(&self, most: Option<usize>) {
        self.most_contexts
            .store(most.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Destroys all contexts that are not in force and that nobody uses, and returns how many green
    /// contexts that were. Waits for work that is left in them.
    ///
    /// A stream, guard or handle keeps the context it is of, and so does foreign code that made it current to
    /// this thread. A [`PartitionStream`](crate::PartitionStream)
    /// keeps none but the one in force.
    ///
    /// # Errors
    /// [`Error::InsidePartitionStream`]; [`Error::Driver`].
    pub fn release_retired(&self) -> Result<usize> {
        self.noting(Operation::Release, self.release())
    }

    fn release(&self) -> Result<usize> {
        let mut released = 0;
        loop {
            let mut later = Later::new(); // outlives the lock
            let _changing = self.change()?;
            match self.names.retire(&[], &mut later)? {
                Retired::Nothing => return Ok(released),
                Retired::GaveUp => {}
                Retired::Context(context) => {
                    released += context.green_contexts();
                    self.end_retired(context)?;
                }
            }
        }
    }

    /// Ends a context that is not in force.
    pub(super) fn end_retired(&self, context: GreenContext) -> Result<()> {
        emit(|| PartitionEvent::ContextRetired {
            device: self.device.ordinal(),
            sms: context.sm_count(),
        });
        Ok(context.close()?)
    }

    /// The next step to make room for what is missing of the wanted pieces, of each entry; nothing where there is
    /// room.
    pub(super) fn make_room(
        &self,
        wanted: &[Vec<Vec<usize>>],
        later: &mut Later,
    ) -> Result<Retired> {
        let limit = self.most_contexts.load(Ordering::Relaxed);
        let (kept, missing) = self.names.read(|entries| {
            let missing = entries.iter().zip(wanted).map(|(entry, wanted)| {
                let missing = wanted.iter().filter(|pieces| entry.find(pieces).is_none());
                // A context that takes another's place is for as many threads.
                missing.count() * entry.context().green_contexts()
            });
            (kept(entries), missing.sum::<usize>())
        });
        if kept.saturating_add(missing) <= limit {
            return Ok(Retired::Nothing);
        }
        match self.names.retire(wanted, later)? {
            Retired::Nothing => Err(Error::TooManyContexts {
                limit,
                kept,
                missing,
            }),
            step => Ok(step),
        }
    }
}

/// How many green contexts there are, siblings included.
pub(super) fn kept<Id>(contexts: &[Entry<Id>]) -> usize {
    contexts
        .iter()
        .flat_map(|entry| &entry.generations)
        .map(|generation| generation.context.green_contexts())
        .sum()
}

/// A generation's context, and of how many green contexts any of that name is made at most.
pub(super) fn with_most_seats<Id>(entry: &Entry<Id>, generation: usize) -> (GreenContext, usize) {
    let seats = entry
        .generations
        .iter()
        .map(|generation| generation.context.green_contexts());
    let context = entry.generations[generation].context.clone();
    (context, seats.max().unwrap_or_default())
}

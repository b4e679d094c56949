//! Retention: the limit on green contexts, and which retired ones are given up.

use std::{fmt::Debug, sync::atomic::Ordering};

use super::{
    observe::Operation,
    state::{Change, ManagerState},
};
use crate::{
    error::{Error, Result},
    events::{PartitionEvent, emit},
    names::{Pieces, RetireStep},
    partition::{DropLater, GreenContext},
};

/// Device memory that a green context takes: 5 MiB (measured on an H200, driver 580).
pub const GREEN_CONTEXT_BYTES: u64 = 5 << 20;

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    pub(super) fn set_context_limit(&self, most: Option<usize>) {
        self.context_limit
            .store(most.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Destroys all retired contexts without users; returns the number of green contexts that they were.
    pub(super) fn release_retired(&self) -> Result<usize> {
        self.noting(Operation::Release, self.try_release())
    }

    fn try_release(&self) -> Result<usize> {
        let mut released = 0;
        loop {
            let mut later = DropLater::new(); // outlives the lock
            let change = self.begin_change()?;
            match change.registry.retire(&[], &mut later)? {
                None => return Ok(released),
                Some(RetireStep::GaveUp) => {}
                Some(RetireStep::TookOut(context)) => {
                    released += context.green_contexts();
                    self.end_retired(context)?;
                }
            }
        }
    }

    /// Ends a retired context.
    pub(super) fn end_retired(&self, context: GreenContext) -> Result<()> {
        emit(|| PartitionEvent::ContextRetired {
            device: self.device.ordinal(),
            sms: context.sm_count(),
        });
        Ok(context.close()?)
    }

    /// Takes the next step to make room for the contexts that are missing of the wanted ones; none where there is room.
    pub(super) fn make_room(
        &self,
        change: &Change<'_, Id>,
        wanted: &[Vec<Pieces>],
        later: &mut DropLater,
    ) -> Result<Option<RetireStep>> {
        let limit = self.context_limit.load(Ordering::Relaxed);
        let kept = self.registry.green_contexts();
        let missing = change.registry.missing(wanted);
        if kept.saturating_add(missing) <= limit {
            return Ok(None);
        }
        match change.registry.retire(wanted, later)? {
            None => Err(Error::TooManyContexts {
                limit,
                kept,
                missing,
            }),
            step => Ok(step),
        }
    }
}

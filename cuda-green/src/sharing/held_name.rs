//! A name that this process holds, and its record.

use std::sync::Arc;

use super::{
    claims::{Claims, give_back},
    event_count::EventCount,
    place::Place,
    record::{Hindrance, Holder, Record},
    steps::{SharingStep, reached},
};
use crate::{sharing_error::SharingError, sync::Mutex};

/// A name that this process holds until this value ends.
#[derive(Debug)]
pub(crate) struct HeldName(Arc<NameRecord>);

/// The record of a name that this process holds, or held: who writes it does not hold the name.
#[derive(Debug)]
pub(crate) struct NameRecord {
    claims: Arc<Claims>,
    events: Arc<EventCount>,
    index: usize,
    /// None once the name is given back.
    holder: Mutex<Option<Holder>>,
}

impl HeldName {
    /// Returns the name whose lock was kept and whose record was written.
    pub(super) fn of(place: &Place, index: usize, holder: Holder) -> Self {
        Self(Arc::new(NameRecord {
            claims: Arc::clone(&place.claims),
            events: Arc::clone(&place.events),
            index,
            holder: Mutex::new(Some(holder)),
        }))
    }

    /// Returns its record.
    pub(crate) fn record(&self) -> Arc<NameRecord> {
        Arc::clone(&self.0)
    }
}

impl NameRecord {
    /// Returns its index among the names of the plan.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Says that the process is about to leave SMs for the plan of this number, unless it has left or says what keeps it.
    /// The driver makes contexts only when all work of the process is over.
    pub(crate) fn begin_to_leave(&self, number: u64) -> Result<(), SharingError> {
        let begun = self.change(None, |holder| {
            if holder.left_for != number && holder.hindrance == Hindrance::None {
                holder.hindrance = Hindrance::Working;
            }
        });
        begun.map(drop)
    }

    /// Says that the process uses no SMs of this name any more but those that the announced plan gives to it.
    pub(crate) fn leave_for(&self, number: u64) -> Result<(), SharingError> {
        let changed = self.change(Some(SharingStep::Left), |holder| {
            holder.left_for = number;
            holder.hindrance = Hindrance::None;
        })?;
        if changed {
            reached(SharingStep::LeftRecorded);
            self.events.notify();
        }
        Ok(())
    }

    /// Says what keeps the process from leaving SMs.
    pub(crate) fn hinder(&self, hindrance: Hindrance) -> Result<(), SharingError> {
        self.change(None, |holder| holder.hindrance = hindrance)
            .map(drop)
    }

    /// Says that the process uses what the plan of this number gives to the name. Returns whether it used what an older
    /// one gave before.
    pub(crate) fn take(&self, generation: u64) -> Result<bool, SharingError> {
        let mut is_newer = false;
        let changed = self.change(Some(SharingStep::Taken), |holder| {
            is_newer = holder.generation != generation;
            holder.generation = generation;
            holder.left_for = 0;
            holder.hindrance = Hindrance::None;
        })?;
        if changed {
            self.events.notify();
        }
        Ok(is_newer)
    }

    /// Changes the record, unless it is so already or the name is given back; returns whether it was not. `step` is reached before it is written.
    fn change(
        &self,
        step: Option<SharingStep>,
        change: impl FnOnce(&mut Holder),
    ) -> Result<bool, SharingError> {
        let mut own = self.holder.lock();
        let Some(holder) = &mut *own else {
            return Ok(false);
        };
        let mut changed = *holder;
        change(&mut changed);
        if changed == *holder {
            return Ok(false);
        }
        if let Some(step) = step {
            reached(step);
        }
        self.claims.write(self.index, Record::Of(changed))?;
        *holder = changed;
        Ok(true)
    }
}

impl Drop for HeldName {
    fn drop(&mut self) {
        let record = &self.0;
        // In a forked child another thread may have had the lock, and is gone.
        if !record.claims.is_own() {
            return;
        }
        let mut holder = record.holder.lock();
        *holder = None;
        give_back(&record.claims, record.index);
        drop(holder);
        record.events.notify();
    }
}

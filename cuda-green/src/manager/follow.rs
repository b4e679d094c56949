//! Following a change of the plan among processes: the contexts of each held name move to the SMs that it is to use, and
//! nothing is left on the others.
//!
//! A name that gets SMs takes them once the plan is in force. One that loses some leaves them before: a context over
//! fewer SMs takes the place of the old one, the work of the old one ends, and the old one is destroyed when nobody uses
//! it. Whatever else holds one of its SMs, a resource or a context made of it, keeps the name from having left.
//!
//! The hand-off is a relaxed one: old and new work that share SMs meanwhile are the same name's. A strict one would
//! have the new work wait for the old, in other streams too, and would after a change that was refused as well.

use std::sync::atomic::Ordering;

use super::{
    join::FollowedName,
    state::{Change, ManagerState},
};
use crate::{
    error::{Error, Result},
    names::{Generation, HandOff, Ids, Pieces, RetireStep},
    partition::DropLater,
    sharing::{Hindrance, Outlook},
    sharing_error::SharingError,
};

/// How far a name has come.
enum Progress {
    /// It uses what it is to use, and nothing else.
    Done,
    /// It still uses something else.
    Hindered(Hindrance),
    /// Something was given up; what is found after it is dropped is another thing.
    Again,
}

impl ManagerState<String> {
    /// Brings all held names to what the plan gives to them. Returns whether there is nothing more to do until something
    /// changes.
    pub(super) fn follow(&self) -> bool {
        let Some(shared) = &self.shared else {
            return true;
        };
        if let Err(error) = shared.membership.check_in_place()
            && !shared.was_lost.swap(true, Ordering::Relaxed)
        {
            log::error!("others do not find the names of this process any more: {error}");
        }
        // Before the look: a name that is claimed after it was given the SMs of a plan that may be newer than what was seen.
        let names = shared.names();
        let outlook = match shared.membership.look() {
            Ok(outlook) => outlook,
            // All its names are given back, and what is left of the manager says so when it is used.
            Err(SharingError::Replaced) => return true,
            Err(error) => {
                log::warn!("looking for changes of the plan among processes: {error}");
                self.end_change_of_nobody();
                return true;
            }
        };
        if let Some(next) = &outlook.next {
            // Of all, before any moves: each waits for those before it.
            for one in &names {
                if let Err(error) = one.record.begin_to_leave(next.generation) {
                    log::warn!("writing the record of {:?}: {error}", one.id);
                }
            }
        }
        let mut is_done = true;
        for one in names {
            match self.follow_name(&one, &outlook) {
                Ok(done) => is_done &= done,
                Err(error) => {
                    let id = &one.id;
                    log::warn!("{id:?} does not follow the plan among processes: {error}");
                    if let Err(error) = one.record.hinder(Hindrance::Failed) {
                        log::warn!("writing the record of {id:?}: {error}");
                    }
                }
            }
        }
        if outlook.next.is_some() {
            self.end_change_of_nobody();
        }
        is_done
    }

    /// Ends an announced change whose process is gone.
    fn end_change_of_nobody(&self) {
        let shared = self.shared.as_ref();
        if let Some(Err(error)) = shared.map(|shared| shared.membership.settle()) {
            log::warn!("ending a change of the plan among processes: {error}");
        }
    }

    /// Brings one name to what the plan gives to it, and records that. Returns whether it is there.
    fn follow_name(&self, one: &FollowedName, outlook: &Outlook) -> Result<bool> {
        let record = &one.record;
        loop {
            let mut later = DropLater::new(); // outlives the locks
            match self.move_name(one, outlook, &mut later)? {
                Progress::Done => break,
                Progress::Again => {}
                Progress::Hindered(hindrance) => {
                    record.hinder(hindrance)?;
                    return Ok(false);
                }
            }
        }
        match &outlook.next {
            Some(next) => record.leave_for(next.generation)?,
            None => {
                let plan = &outlook.plan;
                if record.take(plan.generation)?
                    && let Some(partition) = plan.partitions.get(record.index())
                {
                    let sms = partition.planned.sm_count;
                    self.note_followed(&one.id, sms, plan.generation);
                }
            }
        }
        Ok(true)
    }

    fn move_name(
        &self,
        one: &FollowedName,
        outlook: &Outlook,
        later: &mut DropLater,
    ) -> Result<Progress> {
        let (id, index) = (&one.id, one.record.index());
        let find = |ids: &Ids<String>| Ok(ids.iter().position(|one| one == id));
        let (change, position) = self.begin_change_of(find)?;
        let Some(pieces) = self.pieces_to_use(&change, position, index, outlook)? else {
            return Ok(Progress::Hindered(Hindrance::InUse));
        };
        if let Some(position) = position {
            self.put_on(&change, position, one, &pieces)?;
            if let Some(progress) = self.end_old(&change, position, later)? {
                return Ok(progress);
            }
        }
        let mut layout = change.layout();
        self.tidy(&mut layout);
        let Some(layout) = &*layout else {
            return Ok(Progress::Done);
        };
        // A part that the split did not give is nobody's.
        let own = layout.find(outlook.plan.parts(index)).unwrap_or_default();
        let mut others = own.iter().filter(|piece| !pieces.contains(piece));
        if others.all(|piece| layout.is_withheld(*piece)) {
            Ok(Progress::Done)
        } else {
            Ok(Progress::Hindered(Hindrance::InUse))
        }
    }

    /// Returns the pieces that a name is to use; none where it has no context any more that could move, and still uses
    /// others.
    fn pieces_to_use(
        &self,
        change: &Change<'_, String>,
        position: Option<usize>,
        index: usize,
        outlook: &Outlook,
    ) -> Result<Option<Pieces>> {
        let mut layout = change.layout();
        self.tidy(&mut layout);
        let Some(layout) = &*layout else {
            return Ok(Some(Pieces::new()));
        };
        let own = outlook.plan.parts(index);
        let used: Pieces = match position {
            Some(position) => change
                .registry
                .pieces_in_force(position)
                .unwrap_or_default(),
            // Handles outlive the name, or resources do.
            None => {
                let own = layout.find(own).unwrap_or_default();
                own.into_iter()
                    .filter(|piece| !layout.is_withheld(*piece))
                    .collect()
            }
        };
        let used_parts: Vec<_> = used
            .iter()
            .map(|piece| layout.pieces[*piece].part)
            .collect();
        let parts = outlook.parts_to_use(index, &used_parts);
        if position.is_none() {
            let stays = used_parts.iter().all(|part| parts.contains(part));
            return Ok(stays.then_some(used));
        }
        let mut pieces = layout.find(&parts).unwrap_or_default();
        pieces.sort_unstable();
        if pieces.is_empty() || pieces.len() != parts.len() {
            return Err(SharingError::AnotherSplit {
                reason: "it has no such parts here".to_owned(),
            }
            .into());
        }
        Ok(Some(pieces))
    }

    /// Puts a context over these pieces into force under a name, which is made if there is none.
    fn put_on(
        &self,
        change: &Change<'_, String>,
        position: usize,
        one: &FollowedName,
        pieces: &Pieces,
    ) -> Result<()> {
        let registry = &change.registry;
        if registry.pieces_in_force(position).as_ref() == Some(pieces) {
            return Ok(());
        }
        if let Some(old) = registry.context_without(position, pieces) {
            // Its context has it as well, and stays while this change goes on.
            let Some(name) = one.name.upgrade() else {
                return Ok(()); // given back, and claimed again since
            };
            let mut layout = change.layout();
            let made = match &mut *layout {
                Some(layout) => layout.create_as_in_place_of(&name, &self.device, &old, pieces),
                None => return Ok(()),
            };
            if made.is_err() {
                self.tidy(&mut layout);
            }
            let context = made?;
            drop(layout);
            // Threads that were at work there are likely to come here.
            context.provision_threads(old.green_contexts())?;
            let pieces = pieces.clone();
            registry.add_generation(position, Generation { pieces, context });
        }
        // What follows waits for closures that use a stream of the name.
        one.record.hinder(Hindrance::InUse)?;
        if let Some(generations) = registry.in_force_but(position, pieces) {
            registry.put_in_force(&generations, HandOff::Relaxed)?;
            registry.own_what_is_in_force(position);
        }
        Ok(())
    }

    /// Ends the contexts of a name that are not in force. Returns what is in the way; none where nothing is left of them.
    fn end_old(
        &self,
        change: &Change<'_, String>,
        position: usize,
        later: &mut DropLater,
    ) -> Result<Option<Progress>> {
        let (old, kept) = change.registry.retired_of(position);
        for context in &old {
            // Nothing waits here: the change may be withdrawn before the work ends, and other names follow it too.
            match context.is_working() {
                Ok(false) => {}
                Ok(true) => return Ok(Some(Progress::Hindered(Hindrance::Working))),
                Err(Error::ContextInCapture) => {
                    return Ok(Some(Progress::Hindered(Hindrance::InCapture)));
                }
                Err(error) => return Err(error),
            }
        }
        drop(old);
        loop {
            match change.registry.retire(&kept, later)? {
                Some(RetireStep::TookOut(context)) => self.end_retired(context)?,
                Some(RetireStep::GaveUp) => return Ok(Some(Progress::Again)),
                None => return Ok(None),
            }
        }
    }
}

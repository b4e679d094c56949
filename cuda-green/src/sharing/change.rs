//! Changing the plan: announcing the next one, waiting until others have left what it takes from them, and putting it
//! into force; and the end of changes whose process is gone.

use std::{
    cell::Cell,
    fs,
    time::{Duration, Instant},
};

use super::{
    agreed_plan::AgreedPlan,
    event_count::LONGEST_PAUSE,
    holder::program,
    leftover::Leftover,
    place::{A_MOMENT, LONG_PAUSE, LONGEST_WAIT, Place, retry},
    protocol::{self, NameState},
    record::{Hindrance, Holder, Record},
    shares,
    status::{ChangedName, PlanChange},
    steps::{SharingStep, reached},
    store,
};
use crate::{
    error::Result,
    planner::SmRequest,
    sharing_error::{NotLeft, NotLeftReason, SharingError},
};

/// How long to wait until all have again what they had.
const A_LITTLE: Duration = Duration::from_millis(500);

thread_local! {
    /// Whether this thread follows changes for a manager.
    static FOLLOWS: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread one that follows changes for a manager, and so makes none: it would wait for itself.
pub(crate) fn become_follower() {
    FOLLOWS.set(true);
}

impl Place {
    /// Gives other shares to some names. Waits for the holders that lose SMs as long as `patience`, or a moment, and for
    /// another change that is going on.
    pub(super) fn change(
        &self,
        wanted: &[(String, SmRequest)],
        patience: Duration,
        connect: &dyn Fn() -> Result<()>,
    ) -> Result<PlanChange> {
        if FOLLOWS.get() {
            return Err(SharingError::WaitsForItself.into());
        }
        let begun = Instant::now();
        let changes = retry(patience, || {
            let lock = self.claims.try_lock_changes()?;
            Ok(lock.ok_or(SharingError::Busy)?)
        })?;
        self.check_claims()?;
        self.end_announced()?;
        let is_of_now = |plan: &AgreedPlan| self.is_of_this_start(plan);
        let plan = self.read()?.filter(is_of_now).ok_or(SharingError::NoPlan)?;
        self.check_facts(&plan)?;
        let mut next = shares::change(&plan, wanted)?;
        if next == plan {
            return Ok(PlanChange::new(&plan, &plan, begun.elapsed()));
        }
        next.generation = protocol::next_number(plan.generation, self.claims.read_announced()?);
        self.claims.write_announced(next.generation)?;
        reached(SharingStep::Numbered);
        let deadline = Instant::now() + patience.clamp(A_MOMENT, LONGEST_WAIT);
        let done = store::announce(&self.folder, &self.next_file, &next)
            .map_err(Into::into)
            .and_then(|()| {
                self.events.notify();
                self.wait_until_left(&plan, &next, deadline, connect)
            })
            .and_then(|()| {
                reached(SharingStep::AllLeft);
                Ok(store::put_in_force(
                    &self.folder,
                    &self.next_file,
                    &self.plan_file,
                )?)
            });
        if let Err(error) = done {
            // If that fails as well, the next one that looks ends the change.
            if let Err(error) = store::withdraw(&self.folder, &self.next_file) {
                log::error!("withdrawing a change of the plan among processes: {error}");
            }
            drop(changes);
            self.events.notify();
            self.wait_until_back(&next);
            return Err(error);
        }
        drop(changes);
        self.events.notify();
        // They have what they had, and more: a moment is enough.
        let moment = deadline.min(Instant::now() + A_MOMENT);
        let behind = self.wait_until(&next, moment, |index, holder| {
            holder.generation >= next.generation || plan.parts(index) == next.parts(index)
        });
        let done = PlanChange {
            behind,
            ..PlanChange::new(&plan, &next, begun.elapsed())
        };
        self.keep();
        Ok(done)
    }

    /// Waits until the disk has the plan in force.
    fn keep(&self) {
        if let Err(error) = store::keep(&self.folder, &self.plan_file) {
            log::warn!("{}: {error}", self.folder.path().display());
        }
    }

    /// Ends a change that nobody goes on with. Returns whether none is announced any more.
    pub(super) fn settle(&self) -> Result<bool, SharingError> {
        let Some(_changes) = self.claims.try_lock_changes()? else {
            return Ok(false);
        };
        self.check_claims()?;
        self.end_announced()?;
        Ok(true)
    }

    /// Ends what another one announced, and did not end: it comes into force if nobody is in its way. The caller has the
    /// lock of changes.
    fn end_announced(&self) -> Result<(), SharingError> {
        if fs::symlink_metadata(self.folder.within(&self.next_file)).is_err() {
            return Ok(());
        }
        let plan = self.read()?;
        // Nobody can have left for a plan that cannot be read.
        let next = self.read_next().unwrap_or_default();
        if let (Some(plan), Some(next)) = (plan, next)
            && protocol::is_announced(plan.generation, next.generation)
            && next.has_the_split_of(&plan)
        {
            let mut in_the_way = 0;
            for index in 0..plan.partitions.len() {
                in_the_way += usize::from(self.not_left(&plan, &next, index, false)?.is_some());
            }
            if in_the_way == 0 {
                store::put_in_force(&self.folder, &self.next_file, &self.plan_file)?;
                self.events.notify();
                self.keep();
                return Ok(());
            }
        }
        store::withdraw(&self.folder, &self.next_file)?;
        self.events.notify();
        Ok(())
    }

    fn wait_until_left(
        &self,
        plan: &AgreedPlan,
        next: &AgreedPlan,
        deadline: Instant,
        connect: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut is_connected = !self.needs_connection(&plan.key);
        loop {
            let seen = self.events.read();
            let mut holders = Vec::new();
            for index in 0..plan.partitions.len() {
                holders.extend(self.not_left(plan, next, index, is_connected)?);
            }
            if holders.is_empty() {
                return Ok(());
            }
            let is_dirty = |one: &NotLeft| matches!(one.reason, NotLeftReason::Dirty(_));
            let any_dirty = holders.iter().any(is_dirty);
            if any_dirty && !is_connected {
                // The server's list says something only to its clients.
                connect()?;
                is_connected = true;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SharingError::NotLeft { holders }.into());
            }
            let pause = if any_dirty { LONG_PAUSE } else { LONGEST_PAUSE };
            self.events.wait(seen, left.min(pause));
        }
    }

    /// Returns who is in the way of the next plan by a name. `asks` is whether the MPS server may be asked for its
    /// clients.
    fn not_left(
        &self,
        plan: &AgreedPlan,
        next: &AgreedPlan,
        index: usize,
        asks: bool,
    ) -> Result<Option<NotLeft>, SharingError> {
        let has_left = |state| {
            let (now, then) = (plan.parts(index), next.parts(index));
            protocol::has_left(now, then, next.generation, state)
        };
        // First the lock: whoever claims the name after that sees the change.
        let is_taken = self.claims.is_taken(index)?;
        let record = self.claims.read(index)?;
        let holder = match record {
            Record::Of(holder) => Some(holder),
            _ => None,
        };
        let left_for = holder.map_or(0, |holder| holder.left_for);
        if has_left(NameState::InUse { left_for }) {
            return Ok(None);
        }
        let reason = if is_taken {
            reason(holder)
        } else if record == Record::Clear {
            return Ok(None);
        } else if !asks && self.needs_connection(&plan.key) {
            NotLeftReason::Dirty("whether its work is over is not asked yet".to_owned())
        } else {
            match self.judge(&plan.key, record) {
                Leftover::Clear if has_left(NameState::Idle) => return Ok(None),
                Leftover::Clear => NotLeftReason::Silent,
                Leftover::Dirty(reason) => NotLeftReason::Dirty(reason),
            }
        };
        Ok(Some(NotLeft {
            name: plan
                .partitions
                .get(index)
                .map(|one| one.name.clone())
                .unwrap_or_default(),
            pid: holder.map(|holder| holder.pid),
            program: holder.as_ref().and_then(program),
            reason,
        }))
    }

    /// Waits a little until those that had begun to leave SMs for a plan that was withdrawn have them again: where a change
    /// was refused, all is as before.
    fn wait_until_back(&self, withdrawn: &AgreedPlan) {
        let deadline = Instant::now() + A_LITTLE;
        let behind = self.wait_until(withdrawn, deadline, |_, holder| {
            holder.left_for != withdrawn.generation && holder.hindrance == Hindrance::None
        });
        for name in behind {
            log::info!("the process of {name:?} has not taken back what it left");
        }
    }

    /// Waits until the records of all holders are so, or until the deadline. Returns the names of those that are not.
    fn wait_until(
        &self,
        plan: &AgreedPlan,
        deadline: Instant,
        is_there: impl Fn(usize, &Holder) -> bool,
    ) -> Vec<String> {
        let is_behind = |index| -> Result<bool, SharingError> {
            let is_there =
                |record| matches!(record, Record::Of(holder) if is_there(index, &holder));
            Ok(self.claims.is_taken(index)? && !is_there(self.claims.read(index)?))
        };
        loop {
            let seen = self.events.read();
            let names = plan.partitions.iter().enumerate();
            let behind = names.filter(|(index, _)| is_behind(*index).unwrap_or(true));
            let behind: Vec<String> = behind.map(|(_, one)| one.name.clone()).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if behind.is_empty() || left.is_zero() {
                return behind;
            }
            self.events.wait(seen, left);
        }
    }
}

fn reason(holder: Option<Holder>) -> NotLeftReason {
    match holder.map_or(Hindrance::None, |holder| holder.hindrance) {
        Hindrance::None => NotLeftReason::Silent,
        Hindrance::InUse => NotLeftReason::InUse,
        Hindrance::Working => NotLeftReason::Working,
        Hindrance::InCapture => NotLeftReason::InCapture,
        Hindrance::Failed => NotLeftReason::Failed,
    }
}

impl PlanChange {
    fn new(before: &AgreedPlan, after: &AgreedPlan, took: Duration) -> Self {
        let names = before.partitions.iter().zip(&after.partitions);
        let names = names.map(|(before, after)| ChangedName {
            name: before.name.clone(),
            sms_before: before.planned.sm_count,
            sms_after: after.planned.sm_count,
        });
        Self {
            generation: after.generation,
            names: names.collect(),
            behind: Vec::new(),
            unassigned_sms: after.unassigned_sms(),
            took,
        }
    }
}

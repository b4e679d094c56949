//! The membership of a process in a plan: joining, claiming names, following changes of the plan, and making them.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    agreed_plan::{AgreedPlan, PlanKey, check_names},
    event_count::EventCount,
    held_name::HeldName,
    place::{Place, retry},
    protocol, separation,
    status::{PlanChange, SharedName, SharedStatus},
    steps::{SharingStep, reached},
    terms::Terms,
};
use crate::{
    error::{Error, Result},
    planner::{Part, SmRequest},
    sharing_error::SharingError,
    sync::Mutex,
};

/// A plan that this process has joined.
#[derive(Debug)]
pub(crate) struct Membership {
    place: Place,
    /// The plan as it was seen last.
    plan: Mutex<Arc<AgreedPlan>>,
}

/// The plans as a holder sees them.
#[derive(Clone, Debug)]
pub(crate) struct Outlook {
    pub(crate) plan: Arc<AgreedPlan>,
    /// The plan that is announced, if one is.
    pub(crate) next: Option<AgreedPlan>,
}

impl Membership {
    /// Joins the plan in force, or makes one, and claims names of it: all or none. `connect` makes the process a client
    /// of the MPS server; `plan` plans the requests, for these facts and a plan in this folder.
    pub(crate) fn join(
        terms: &Terms<'_>,
        names: &[&str],
        connect: &dyn Fn() -> Result<()>,
        plan: &dyn Fn(&PlanKey, &Path) -> Result<AgreedPlan>,
    ) -> Result<(Self, Vec<HeldName>)> {
        refuse_raised()?;
        check_names(terms.requests)?;
        let place = Place::open(terms)?;
        let (plan, held) = retry(terms.patience, || {
            let agreed = place.agree(terms.requests, connect, plan)?;
            reached(SharingStep::Agreed);
            match place.claim(&agreed, names, connect) {
                // Meanwhile; the next attempt sees the new one.
                Err(Error::Sharing(SharingError::Replaced)) => Err(SharingError::Busy.into()),
                held => Ok((agreed, held?)),
            }
        })?;
        let plan = Mutex::new(Arc::new(plan));
        Ok((Self { place, plan }, held))
    }

    /// Claims one more name of the plan, which must still be in force, or have been changed only. Returns the name, and
    /// the plan under which it was claimed.
    pub(crate) fn claim(
        &self,
        name: &str,
        patience: Duration,
        connect: &dyn Fn() -> Result<()>,
    ) -> Result<(HeldName, Arc<AgreedPlan>)> {
        retry(patience, || {
            // First, as names of another plan say nothing.
            let plan = self.look()?.plan;
            let held = match self.place.claim(&plan, &[name], connect) {
                // Changed meanwhile, or else the next attempt finds that it is gone.
                Err(Error::Sharing(SharingError::Replaced)) => {
                    return Err(SharingError::Busy.into());
                }
                held => held?,
            };
            let one = held.into_iter().next().ok_or(SharingError::Busy)?;
            Ok((one, plan))
        })
    }

    /// Returns the plan as it was seen last.
    pub(crate) fn plan(&self) -> Arc<AgreedPlan> {
        Arc::clone(&self.plan.lock())
    }

    /// Looks at the plan in force and the one that is announced.
    ///
    /// # Errors
    /// [`SharingError::Replaced`] where the plan is another one, and no change of that which was joined.
    pub(crate) fn look(&self) -> Result<Outlook, SharingError> {
        // In this order: what was announced and is no more has come into force by now, or was withdrawn.
        let next = self.place.read_next();
        let plan = self.place.read()?.ok_or(SharingError::Replaced)?;
        let mut own = self.plan.lock();
        if !plan.has_the_split_of(&own) {
            return Err(SharingError::Replaced);
        }
        // Another thread may have read a newer one meanwhile.
        if own.generation < plan.generation {
            *own = Arc::new(plan);
        }
        let plan = Arc::clone(&own);
        drop(own);
        let is_announced = |next: &AgreedPlan| {
            protocol::is_announced(plan.generation, next.generation) && next.has_the_split_of(&plan)
        };
        let next = next?.filter(is_announced);
        Ok(Outlook { plan, next })
    }

    /// Ensures that the files are those that others find.
    pub(crate) fn check_in_place(&self) -> Result<(), SharingError> {
        self.place.check_claims()
    }

    /// Ends a change that nobody goes on with. Returns whether none is announced any more.
    pub(crate) fn settle(&self) -> Result<bool, SharingError> {
        self.place.settle()
    }

    /// Changes the shares of some names in the plan.
    pub(crate) fn change(
        &self,
        wanted: &[(String, SmRequest)],
        patience: Duration,
        connect: &dyn Fn() -> Result<()>,
    ) -> Result<PlanChange> {
        self.look()?;
        self.place.change(wanted, patience, connect)
    }

    /// Returns what wakes this process when another changes something.
    pub(crate) fn events(&self) -> Arc<EventCount> {
        Arc::clone(&self.place.events)
    }

    /// Returns the plan and who holds its names.
    pub(crate) fn status(&self) -> SharedStatus {
        let looked = self.look();
        // The claims are those of the plan that has taken its place then.
        let is_replaced = matches!(looked, Err(SharingError::Replaced));
        let outlook = looked.unwrap_or_else(|_| Outlook {
            plan: self.plan(),
            next: None,
        });
        let place = &self.place;
        let next = outlook.next.as_ref();
        let holder = |index| match is_replaced {
            true => Err(SharingError::Replaced),
            false => place.holder(index),
        };
        SharedStatus {
            folder: place.folder.path().to_owned(),
            generation: outlook.plan.generation,
            announced: next.map(|next| next.generation),
            under_mps: place.pipes.is_some(),
            separation: separation::kept(&place.folder, &outlook.plan),
            names: SharedName::of_plan(&outlook.plan, next, holder),
            unassigned_sms: outlook.plan.unassigned_sms(),
        }
    }
}

impl Outlook {
    /// Returns the parts that a holder of a name is to use, which uses some now, and whether it may then say that it left
    /// for the announced plan.
    pub(crate) fn parts_to_use(&self, index: usize, used: &[Part]) -> Vec<Part> {
        let next = self.next.as_ref().map(|next| next.parts(index));
        protocol::parts_to_use(used, self.plan.parts(index), next)
    }
}

pub(super) fn refuse_raised() -> Result<(), SharingError> {
    if cuda_green_sys::privileges_are_raised() {
        return Err(SharingError::RaisedPrivileges);
    }
    Ok(())
}

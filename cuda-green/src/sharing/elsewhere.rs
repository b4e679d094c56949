//! Sharing where the system cannot do it: nothing can be joined, so nothing is ever held.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use super::{
    agreed_plan::{AgreedPlan, PlanKey},
    ending::EndedHolder,
    record::Hindrance,
    shared_device::SharedDevice,
    status::{PlanChange, SharedStatus},
    terms::Terms,
};
use crate::{
    error::Result,
    planner::{Part, SmRequest},
    sharing_error::SharingError,
};

/// A plan that this process has joined: none.
#[derive(Debug)]
pub(crate) struct Membership(Infallible);

/// A name that this process holds: none.
#[derive(Debug)]
pub(crate) struct HeldName(Infallible);

/// The record of such a name: none.
#[derive(Debug)]
pub(crate) struct NameRecord(Infallible);

/// What wakes this process: nothing.
#[derive(Debug)]
pub(crate) struct EventCount(Infallible);

/// The plans as a holder sees them.
#[derive(Clone, Debug)]
pub(crate) struct Outlook {
    pub(crate) plan: Arc<AgreedPlan>,
    pub(crate) next: Option<AgreedPlan>,
}

/// Does nothing: there are no changes.
pub(crate) fn become_follower() {}

/// The longest time between two looks.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Membership {
    /// Refuses.
    pub(crate) fn join(
        _: &Terms<'_>,
        _: &[&str],
        _: &dyn Fn() -> Result<()>,
        _: &dyn Fn(&PlanKey, &std::path::Path) -> Result<AgreedPlan>,
    ) -> Result<(Self, Vec<HeldName>)> {
        Err(SharingError::NotLinux.into())
    }

    pub(crate) fn claim(
        &self,
        _: &str,
        _: Duration,
        _: &dyn Fn() -> Result<()>,
    ) -> Result<(HeldName, Arc<AgreedPlan>)> {
        match self.0 {}
    }

    pub(crate) fn plan(&self) -> Arc<AgreedPlan> {
        match self.0 {}
    }

    pub(crate) fn check_in_place(&self) -> Result<(), SharingError> {
        match self.0 {}
    }

    pub(crate) fn look(&self) -> Result<Outlook, SharingError> {
        match self.0 {}
    }

    pub(crate) fn settle(&self) -> Result<bool, SharingError> {
        match self.0 {}
    }

    pub(crate) fn change(
        &self,
        _: &[(String, SmRequest)],
        _: Duration,
        _: &dyn Fn() -> Result<()>,
    ) -> Result<PlanChange> {
        match self.0 {}
    }

    pub(crate) fn events(&self) -> Arc<EventCount> {
        match self.0 {}
    }

    pub(crate) fn status(&self) -> SharedStatus {
        match self.0 {}
    }
}

impl HeldName {
    pub(crate) fn record(&self) -> Arc<NameRecord> {
        match self.0 {}
    }
}

impl NameRecord {
    pub(crate) fn index(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn begin_to_leave(&self, _: u64) -> Result<(), SharingError> {
        match self.0 {}
    }

    pub(crate) fn leave_for(&self, _: u64) -> Result<(), SharingError> {
        match self.0 {}
    }

    pub(crate) fn hinder(&self, _: Hindrance) -> Result<(), SharingError> {
        match self.0 {}
    }

    pub(crate) fn take(&self, _: u64) -> Result<bool, SharingError> {
        match self.0 {}
    }
}

impl EventCount {
    pub(crate) fn read(&self) -> Option<u32> {
        match self.0 {}
    }

    pub(crate) fn notify(&self) {
        match self.0 {}
    }

    pub(crate) fn wait(&self, _: Option<u32>, _: Duration) {
        match self.0 {}
    }
}

impl Outlook {
    pub(crate) fn parts_to_use(&self, _: usize, _: &[Part]) -> Vec<Part> {
        Vec::new() // nobody has one
    }
}

impl SharedDevice {
    /// Refuses: processes share a device on Linux only.
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing).
    pub fn list(_: Option<&Path>) -> Result<Vec<Self>> {
        Err(SharingError::NotLinux.into())
    }

    /// Refuses, as [`list`](Self::list) does.
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing).
    pub fn set_shares(&self, _: &[(&str, SmRequest)], _: Duration) -> Result<PlanChange> {
        Err(SharingError::NotLinux.into())
    }

    /// Refuses, as [`list`](Self::list) does.
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing).
    pub fn end_holder(&self, _: &str, _: Duration) -> Result<EndedHolder> {
        Err(SharingError::NotLinux.into())
    }
}

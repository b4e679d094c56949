//! Sharing where the system cannot do it: nothing can be joined, so nothing is ever held.

use std::{convert::Infallible, path::Path, time::Duration};

use super::{
    agreed_plan::{AgreedPlan, PlanKey},
    ending::EndedHolder,
    shared_device::SharedDevice,
    status::SharedStatus,
    terms::Terms,
};
use crate::{error::Result, sharing_error::SharingError};

/// A plan that this process has joined: none.
#[derive(Debug)]
pub(crate) struct Membership(Infallible);

/// A name that this process holds: none.
#[derive(Debug)]
pub(crate) struct HeldName(#[allow(dead_code)] Infallible);

impl Membership {
    /// Refuses.
    pub(crate) fn join(
        _: &Terms<'_>,
        _: &[&str],
        _: &dyn Fn() -> Result<()>,
        _: &dyn Fn(&PlanKey) -> Result<AgreedPlan>,
    ) -> Result<(Self, Vec<HeldName>)> {
        Err(SharingError::NotLinux.into())
    }

    pub(crate) fn claim(
        &self,
        _: &str,
        _: Duration,
        _: &dyn Fn() -> Result<()>,
    ) -> Result<HeldName> {
        match self.0 {}
    }

    pub(crate) fn plan(&self) -> &AgreedPlan {
        match self.0 {}
    }

    pub(crate) fn status(&self) -> SharedStatus {
        match self.0 {}
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
    pub fn end_holder(&self, _: &str, _: Duration) -> Result<EndedHolder> {
        Err(SharingError::NotLinux.into())
    }
}

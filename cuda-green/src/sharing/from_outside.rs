//! A change of the plan by a process that has not joined it.

use std::time::Duration;

use super::{
    membership::refuse_raised, place::Place, shared_device::SharedDevice, status::PlanChange,
};
use crate::{error::Result, planner::SmRequest};

impl SharedDevice {
    /// Gives other shares of the plan to some of its names, as
    /// [`SmPartitionManager::set_shares`](crate::SmPartitionManager::set_shares) does, from a process that need not see
    /// the device.
    ///
    /// Waits for holders that lose SMs as long as `patience`, and two seconds at least.
    ///
    /// # Errors
    /// Those of [`SmPartitionManager::set_shares`](crate::SmPartitionManager::set_shares);
    /// [`SharingError::NoPlan`](crate::SharingError::NoPlan) where the plan is gone. The plan stays as it is then,
    /// but for what is said there of a folder that cannot be written.
    pub fn set_shares(
        &self,
        shares: &[(&str, SmRequest)],
        patience: Duration,
    ) -> Result<PlanChange> {
        refuse_raised()?;
        let place = Place::seen_from_outside(&self.status.folder, self.uuid)?;
        let shares = shares.iter();
        let owned: Vec<(String, SmRequest)> = shares
            .map(|(name, request)| ((*name).to_owned(), *request))
            .collect();
        place.change(&owned, patience, &|| Ok(()))
    }
}

//! Changing the shares of a plan among processes, by a manager that joined it.

use super::{join::connect, observe::Operation, partition_manager::SmPartitionManager};
use crate::{
    error::Result, names, planner::SmRequest, sharing::PlanChange, sharing_error::SharingError,
};

impl SmPartitionManager<String> {
    /// Gives other shares of the plan among processes to some of its names, whoever holds them: in every process, SMs
    /// change hands, and the work goes on.
    ///
    /// Names that have the rest or a share get what that leaves; all others keep what they have. SMs come in whole units
    /// of the plan's split, and each name keeps one at least. Those who lose SMs leave them first: new work goes to
    /// fewer SMs at once, and the contexts over the old ones are destroyed once their work is over and nobody uses them.
    /// Only then is the plan changed, and others get the SMs. It is all or nothing: where somebody has not
    /// left after the time that [`SharedPlan::wait`](crate::SharedPlan::wait) gave, and two seconds at least, the plan
    /// stays as it is and the error names them. If this process dies meanwhile, the others end the change.
    ///
    /// The new shares outlast the processes: whoever joins by the same list gets them. Under MPS the SMs of a process that
    /// was killed change hands once the server no longer lists it.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")]
    /// # fn main() -> cuda_green::Result<()> {
    /// use cuda_green::{ContextPolicy, Driver, SharedPlan, SmPartitionManager};
    /// use cuda_green::planner::{PartitionRequest, SmRequest};
    ///
    /// # let folder = std::env::temp_dir().join(format!("cuda-green-shares-{}", std::process::id()));
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let plan = SharedPlan::of([
    ///     ("serving", PartitionRequest::at_least(64)),
    ///     ("indexing", PartitionRequest::rest()),
    /// ])
    /// .in_folder(&folder);
    /// let manager = SmPartitionManager::join(&device, &plan, &[("serving", ContextPolicy::default())])?;
    /// let change = manager.set_shares(&[("serving", SmRequest::AtLeast(96))])?;
    /// assert_eq!(manager.get_context("serving")?.sm_count(), 96);
    /// println!("{change}"); // indexing: 36 SMs, before 68
    /// # drop(manager);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok(())
    /// # }
    /// # #[cfg(not(target_os = "linux"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing): [`SharingError::NotLeft`] names who did not leave SMs in time,
    /// [`SharingError::Busy`] says that another change goes on, [`SharingError::WaitsForItself`] comes to a subscriber that
    /// calls this on the manager's own thread, [`SharingError::FixedShares`] that the split has no units
    /// (before CUDA 12.5);
    /// [`Error::InsufficientSms`](crate::Error::InsufficientSms) and
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for shares that cannot be;
    /// [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream). The plan stays as it is then. Only where the
    /// folder cannot be written any more, the change stays announced, and comes into force or not by who looks next.
    pub fn set_shares(&self, shares: &[(&str, SmRequest)]) -> Result<PlanChange> {
        names::refuse_inside()?; // it would wait for itself
        let state = &self.state;
        let shared = state.shared.as_ref().ok_or(SharingError::NotJoined)?;
        let connect = connect(&state.device);
        let shares = shares.iter();
        let owned: Vec<(String, SmRequest)> = shares
            .map(|(name, request)| ((*name).to_owned(), *request))
            .collect();
        let changed = shared.membership.change(&owned, shared.patience, &connect);
        let change = state.noting(Operation::SetShares, changed)?;
        state.note_shares(&change);
        Ok(change)
    }
}

//! The test whether the groups of a plan's split are apart in two processes: each fills some of them, both at once.
//!
//! Every group is in both processes' hands in turn. In the round of a bit, one process has the groups whose index has it, and the
//! other the rest; then the other way round. Two groups differ in some bit, so each pair is tested across the processes,
//! in both ways, in a few rounds.

#[cfg(target_os = "linux")]
mod rounds;

#[cfg(not(target_os = "linux"))]
use std::{path::Path, sync::Arc};

#[cfg(target_os = "linux")]
pub(super) use rounds::keep_tested;
#[cfg(target_os = "linux")]
pub use rounds::serve_separation_test;

#[cfg(not(target_os = "linux"))]
use super::{shared_plan::SharedPlan, state::ManagerState};
#[cfg(not(target_os = "linux"))]
use crate::{
    device::Claim,
    driver::Driver,
    error::Result,
    resource::SmResource,
    sharing::{AgreedPlan, Separation},
    sharing_error::SharingError,
};

/// Serves as the second process of the test whether groups are apart: on Linux only.
///
/// # Errors
/// [`Error::Sharing`](crate::Error::Sharing).
#[cfg(not(target_os = "linux"))]
pub fn serve_separation_test(_: &Driver) -> Result<()> {
    Err(SharingError::NotLinux.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn keep_tested(_: &Path, _: &AgreedPlan, _: &Separation) {}

#[cfg(not(target_os = "linux"))]
impl ManagerState<String> {
    /// Tests nothing: no plan is ever joined here.
    pub(super) fn test_separation(
        &self,
        _: &SharedPlan,
        _: &AgreedPlan,
        _: &Arc<Claim>,
        _: &SmResource,
    ) -> Separation {
        Separation::NotTested {
            reason: SharingError::NotLinux.to_string(),
        }
    }
}

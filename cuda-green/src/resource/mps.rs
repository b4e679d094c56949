//! Limits of MPS, the server through which processes share a GPU, that forbid splits.

use super::execution::is_topology_refusal;
use crate::{
    device::CudaDevice,
    error::{Error, Result},
    planner::SplitFlag,
};

/// The environment variable that limits the SMs of an MPS client.
const PERCENTAGE: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";

impl CudaDevice {
    /// Refuses splits where MPS leaves the process only a part of the SMs. The driver then refuses to split them into
    /// whole units, and counts 0 units in a dry run. It does make groups without co-scheduling, but counts their
    /// remainder from the whole device, 130 SMs beside 2 of 98, so these are not used either (measured with 75 and 50 %
    /// on an H200, driver 580).
    ///
    /// # Errors
    /// [`Error::LimitedByMps`]; [`Error::Driver`].
    pub(crate) fn check_mps_allows_splits(&self) -> Result<()> {
        if !self.is_under_mps() {
            return Ok(());
        }
        let all = self.sm_resource()?;
        match all.count_groups(1, SplitFlag::None) {
            Ok(0) => {}
            Err(error) if is_topology_refusal(&error) => {}
            counted => return counted.map(drop),
        }
        Err(Error::LimitedByMps {
            sm_count: all.sm_count(),
            limit: match std::env::var(PERCENTAGE) {
                Ok(percent) => format!("{PERCENTAGE}={percent}: unset it"),
                Err(_) => "its daemon's default active thread percentage: raise it to 100 \
                    (`set_default_active_thread_percentage` of `nvidia-cuda-mps-control`)"
                    .to_owned(),
            },
        })
    }
}

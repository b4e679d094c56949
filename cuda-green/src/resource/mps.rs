//! MPS, the server through which processes share a GPU: its status, and limits of it that forbid splits.

use cuda_green_sys::CUdevice_attribute;

use super::execution::is_topology_refusal;
use crate::{
    device::CudaDevice,
    error::{Error, Result},
    planner::SplitFlag,
    sharing::{ComputeMode, MpsStatus, Surroundings, variable},
};

/// The environment variable that limits the SMs of an MPS client.
const PERCENTAGE: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";

impl CudaDevice {
    /// Returns what is known of MPS here: the daemon and its servers, what limits this process, and the states of the device
    /// that matter for sharing it. Without a daemon it says so, and the rest is still told.
    ///
    /// Where the daemon's pipes are there, its control program is asked (2.3 ms a question, measured, driver 580); one that does not answer
    /// is told after five seconds. The driver is asked whether it makes partitions. A process with raised privileges asks no program.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn mps_status(&self) -> Result<MpsStatus> {
        let surroundings = Surroundings::look();
        let compute_mode = self.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE);
        let refuses_splits = if self.supports_required_features() {
            match self.check_mps_allows_splits() {
                Ok(()) => None,
                Err(error @ Error::LimitedByMps { .. }) => Some(error.to_string()),
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        Ok(MpsStatus {
            in_use: self.is_under_mps(),
            pipes: surroundings.pipes,
            daemon: surroundings.daemon,
            servers: surroundings.servers,
            version: surroundings.version,
            multi_user: surroundings.multi_user,
            thread_percentage: variable(PERCENTAGE),
            static_partition: variable("CUDA_MPS_SM_PARTITION"),
            client_priority: variable("CUDA_MPS_CLIENT_PRIORITY"),
            sm_count: self.properties().multiprocessor_count,
            refuses_splits,
            // A driver that does not know the attribute refuses it.
            compute_mode: compute_mode.ok().map(ComputeMode::of),
            is_mig: self.name().split(' ').any(|word| word == "MIG"),
        })
    }

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

//! The resources of a device.

use cuda_green_sys::CUdevResourceType;

use super::{SmResource, WorkqueueResource};
use crate::{
    device::CudaDevice,
    driver::{ResourceOwner, query_resource},
    error::Result,
};

impl CudaDevice {
    /// Returns all SMs of the device, as the driver describes them.
    ///
    /// # Errors
    /// [`Error::MissingEntryPoint`](crate::Error::MissingEntryPoint) before CUDA 12.4; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuDeviceGetDevResource")]
    pub fn sm_resource(&self) -> Result<SmResource> {
        let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        let raw = query_resource(self.driver(), ResourceOwner::Device(self.raw()), kind)?;
        Ok(SmResource::queried(self, raw, None))
    }

    /// Returns the configuration of the device's workqueues, from which configurations for contexts are made. CUDA 13.1;
    /// proven against the real header and the simulated driver.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) before CUDA 13.1; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuDeviceGetDevResource")]
    pub fn workqueue(&self) -> Result<WorkqueueResource> {
        WorkqueueResource::config_of(self, ResourceOwner::Device(self.raw()))
    }
}

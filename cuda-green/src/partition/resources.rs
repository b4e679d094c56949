//! Resources that a context has.

use std::sync::Arc;

use cuda_green_sys::{CUdevResource, CUdevResourceType};

use super::{GreenContext, handles::Partition, workqueues::WorkqueueIsolation};
use crate::{
    driver::{ResourceOwner, query_resource},
    error::Result,
    resource::{SmResource, WorkqueueResource},
};

impl GreenContext {
    /// Its SMs as the driver describes them; they can be split, for contexts within this one.
    ///
    /// Of a manager's context, it holds the SMs as a context over them would: see
    /// [`from_resources`](Self::from_resources).
    ///
    /// # Errors
    /// [`Error::MissingEntryPoint`](crate::Error::MissingEntryPoint) before CUDA 12.4; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGreenCtxGetDevResource")]
    #[doc(alias = "cuCtxGetDevResource")]
    pub fn sm_resource(&self) -> Result<SmResource> {
        let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        let raw = query_resource(self.driver(), self.owner()?, kind)?;
        Ok(self.describe_sms(raw))
    }

    /// How its workqueues are configured. CUDA 13.1; proven against the real header and the simulated driver.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) before CUDA 13.1; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGreenCtxGetDevResource")]
    pub fn workqueue(&self) -> Result<WorkqueueResource> {
        WorkqueueResource::config_of(self.device(), self.owner()?)
    }

    /// Its workqueue itself, for contexts that are to share it. CUDA 13.1; proven against the real header and
    /// the simulated driver.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) before CUDA 13.1; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "CU_DEV_RESOURCE_TYPE_WORKQUEUE")]
    pub fn existing_workqueue(&self) -> Result<WorkqueueResource> {
        let context = Arc::clone(&self.inner);
        WorkqueueResource::existing_of(self.device(), self.owner()?, context)
    }

    /// Whether it shares workqueues with other contexts. A manager's contexts ask for their own from CUDA 13.1
    /// on, with the device's own limit of concurrency; for how many contexts there are enough, the header does
    /// not say.
    pub fn workqueue_isolation(&self) -> &WorkqueueIsolation {
        &self.inner.workqueues.isolation
    }

    /// What the driver said of its SMs.
    pub(crate) fn describe_sms(&self, raw: CUdevResource) -> SmResource {
        let leases = self
            .inner
            .partition
            .as_ref()
            .map_or(&[][..], Partition::leases);
        SmResource::queried(self.device(), raw, Some(self.coscheduled_sms())).leased(leases)
    }

    fn owner(&self) -> Result<ResourceOwner> {
        Ok(match &self.inner.partition {
            Some(partition) => ResourceOwner::Green(partition.green()),
            None => ResourceOwner::Context(self.raw_context()?),
        })
    }
}

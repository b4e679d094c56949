//! Queries of a context's resources.

use std::sync::Arc;

use cuda_green_sys::{CUdevResource, CUdevResourceType};

use super::{GreenContext, handles::GreenHandles, workqueues::WorkqueueIsolation};
use crate::{
    driver::{ResourceOwner, query_resource},
    error::Result,
    resource::{SmResource, WorkqueueResource},
};

impl GreenContext {
    /// Returns the context's SMs as the driver describes them. They can be split, for contexts within this one.
    ///
    /// For a manager's context, the resource holds a lease on the SMs, as a context over them would: see
    /// [`from_resources`](Self::from_resources).
    ///
    /// # Errors
    /// [`Error::MissingEntryPoint`](crate::Error::MissingEntryPoint) before CUDA 12.4;
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGreenCtxGetDevResource")]
    #[doc(alias = "cuCtxGetDevResource")]
    pub fn sm_resource(&self) -> Result<SmResource> {
        let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        let raw = query_resource(self.driver(), self.owner()?, kind)?;
        Ok(self.describe_sms(raw))
    }

    /// Returns the configuration of the context's workqueues. Needs CUDA 13.1; tested against the real header and the
    /// simulated driver.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) before CUDA 13.1; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGreenCtxGetDevResource")]
    pub fn workqueue(&self) -> Result<WorkqueueResource> {
        WorkqueueResource::config_of(self.device(), self.owner()?)
    }

    /// Returns the context's workqueue, for other contexts that are to share it. Needs CUDA 13.1; tested against the
    /// real header and the simulated driver.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) before CUDA 13.1; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "CU_DEV_RESOURCE_TYPE_WORKQUEUE")]
    pub fn existing_workqueue(&self) -> Result<WorkqueueResource> {
        let context = Arc::clone(&self.inner);
        WorkqueueResource::existing_of(self.device(), self.owner()?, context)
    }

    /// Returns whether the context shares workqueues with other contexts. From CUDA 13.1 on, a manager's contexts ask
    /// for separate workqueues, with the device's limit of concurrency. The header does not say for how many contexts
    /// there are enough.
    pub fn workqueue_isolation(&self) -> &WorkqueueIsolation {
        &self.inner.workqueues.isolation
    }

    /// Makes a resource of the driver's description of the context's SMs, with their leases.
    pub(crate) fn describe_sms(&self, raw: CUdevResource) -> SmResource {
        let leases = self
            .inner
            .partition
            .as_ref()
            .map_or(&[][..], GreenHandles::leases);
        SmResource::queried(self.device(), raw, Some(self.coscheduled_sms())).leased(leases)
    }

    /// Returns the object whose resources the driver is asked for.
    fn owner(&self) -> Result<ResourceOwner> {
        Ok(match &self.inner.partition {
            Some(partition) => ResourceOwner::Green(partition.green()),
            None => ResourceOwner::Context(self.raw_context()?),
        })
    }
}

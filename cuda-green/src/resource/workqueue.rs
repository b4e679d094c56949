//! Workqueue resources: the queues that carry work from streams to the GPU, and their sharing (CUDA 13.1).

use std::{fmt, sync::Arc};

use cuda_green_sys::{
    CUdevResource, CUdevResourceType, CUdevWorkqueueConfigResource, CUdevWorkqueueConfigScope,
    CudaVersion,
};

use super::raw::RawResource;
use crate::{
    device::CudaDevice,
    driver::{ResourceOwner, query_resource},
    error::{Error, Result},
};

/// The queues through which a context's work reaches the GPU. CUDA 13.1; proven against the real header and the
/// simulated driver.
///
/// Streams share a few hardware queues, so work of one stream may have to wait behind another's although their SMs are
/// disjoint. A context that is created with a workqueue balanced among green contexts shares none with other such
/// contexts, while the device has enough queues (the 13.1 header).
///
/// A resource is either a configuration, from [`CudaDevice::workqueue`] or
/// [`GreenContext::workqueue`](crate::GreenContext::workqueue), which takes effect in a context created with it; or an
/// existing workqueue, from [`GreenContext::existing_workqueue`](crate::GreenContext::existing_workqueue), to be shared
/// with its context on purpose.
///
/// ```
/// use cuda_green::{Driver, GreenContext, GreenContextConfig, SmSplit, WorkqueueScope};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.1".parse()?)?.device(0)?;
/// let parts = device.sm_resource()?.split(&SmSplit::equal(2, 32))?;
/// let workqueue = device
///     .workqueue()?
///     .with_scope(WorkqueueScope::GreenContextBalanced)?
///     .with_concurrency_limit(4)?;
/// let context =
///     GreenContext::from_resources(&parts.groups[..1], Some(&workqueue), GreenContextConfig::default())?;
/// assert_eq!(context.workqueue()?.concurrency_limit(), Some(4));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WorkqueueResource {
    device: CudaDevice,
    raw: RawResource,
    /// Keeps the context of an existing workqueue alive: it is not documented what becomes of the workqueue without it.
    context: Option<Arc<dyn Send + Sync>>,
}

/// The contexts that share a workqueue (`CUdevWorkqueueConfigScope`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkqueueScope {
    /// All contexts of the device share all queues: the driver's default.
    DeviceWide,
    /// No queue is shared with other green contexts of this scope, while the device has enough queues.
    GreenContextBalanced,
}

impl WorkqueueResource {
    /// Queries the configuration of a device or a context.
    pub(crate) fn config_of(device: &CudaDevice, owner: ResourceOwner) -> Result<Self> {
        Self::query(
            device,
            owner,
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG,
        )
    }

    /// Queries the existing workqueue of a context, and keeps the context alive.
    pub(crate) fn existing_of(
        device: &CudaDevice,
        owner: ResourceOwner,
        context: Arc<dyn Send + Sync>,
    ) -> Result<Self> {
        let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE;
        Ok(Self {
            context: Some(context),
            ..Self::query(device, owner, kind)?
        })
    }

    fn query(device: &CudaDevice, owner: ResourceOwner, kind: CUdevResourceType) -> Result<Self> {
        // Drivers before 13.1 do not know the types; one of 13.0 ends the process when such a resource is in a
        // descriptor (measured on an H200, driver 580).
        if !device.capabilities().workqueues {
            return Err(Error::Unsupported {
                what: "a workqueue resource",
                needs: CudaVersion::new(13, 1),
                driver: device.driver().version(),
            });
        }
        Ok(Self {
            device: device.clone(),
            raw: RawResource(query_resource(device.driver(), owner, kind)?),
            context: None,
        })
    }

    /// Returns its device.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Returns whether it is an existing workqueue, rather than a configuration.
    pub fn is_existing(&self) -> bool {
        self.context.is_some()
    }

    /// Returns its scope; `None` for an existing workqueue, and for a scope newer than this crate.
    pub fn scope(&self) -> Option<WorkqueueScope> {
        match self.config()?.sharingScope {
            CUdevWorkqueueConfigScope::CU_WORKQUEUE_SCOPE_DEVICE_CTX => {
                Some(WorkqueueScope::DeviceWide)
            }
            CUdevWorkqueueConfigScope::CU_WORKQUEUE_SCOPE_GREEN_CTX_BALANCED => {
                Some(WorkqueueScope::GreenContextBalanced)
            }
            _ => None,
        }
    }

    /// Returns how many streams are expected to have work at once; `None` for an existing workqueue.
    pub fn concurrency_limit(&self) -> Option<u32> {
        self.config().map(|config| config.wqConcurrencyLimit)
    }

    /// Returns the same configuration with another scope.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an existing workqueue.
    #[doc(alias = "CU_WORKQUEUE_SCOPE_GREEN_CTX_BALANCED")]
    pub fn with_scope(self, scope: WorkqueueScope) -> Result<Self> {
        let raw = match scope {
            WorkqueueScope::DeviceWide => CUdevWorkqueueConfigScope::CU_WORKQUEUE_SCOPE_DEVICE_CTX,
            WorkqueueScope::GreenContextBalanced => {
                CUdevWorkqueueConfigScope::CU_WORKQUEUE_SCOPE_GREEN_CTX_BALANCED
            }
        };
        self.configured("scope", format!("{scope:?}"), |config| {
            config.sharingScope = raw;
        })
    }

    /// Returns the same configuration for this many streams that are expected to have work at once. It is a hint: above
    /// the device's own limit, or with more streams at work, several streams may share a queue.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for 0, and for an existing workqueue.
    pub fn with_concurrency_limit(self, streams: u32) -> Result<Self> {
        if streams == 0 {
            return Err(Error::InvalidArgument {
                name: "concurrency_limit",
                value: "0".into(),
                reason: "at least one stream has work at a time",
            });
        }
        self.configured("concurrency_limit", streams.to_string(), |config| {
            config.wqConcurrencyLimit = streams;
        })
    }

    fn configured(
        mut self,
        name: &'static str,
        value: String,
        change: impl FnOnce(&mut CUdevWorkqueueConfigResource),
    ) -> Result<Self> {
        let Some(mut config) = self.config() else {
            return Err(Error::InvalidArgument {
                name,
                value,
                reason: "an existing workqueue cannot be configured; configure the device's, `CudaDevice::workqueue`",
            });
        };
        change(&mut config);
        self.raw.0.__bindgen_anon_1.wqConfig = config;
        Ok(self)
    }

    fn config(&self) -> Option<CUdevWorkqueueConfigResource> {
        let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG;
        if self.raw.0.type_ != kind {
            return None;
        }
        // SAFETY: the type says which field the driver filled, and all of its fields are integers.
        Some(unsafe { self.raw.0.__bindgen_anon_1.wqConfig })
    }

    /// Returns the driver's resource.
    pub fn raw(&self) -> &CUdevResource {
        &self.raw.0
    }
}

impl fmt::Debug for WorkqueueResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkqueueResource")
            .field("device", &self.device.ordinal())
            .field("existing", &self.is_existing())
            .field("scope", &self.scope())
            .field("concurrency_limit", &self.concurrency_limit())
            .finish()
    }
}

//! Contexts made of resources that the caller chose, what resources a context has, and its workqueues.

use std::{slice, sync::Arc};

use cuda_green_sys::{CUdevResource, CUdevResourceType, CUresult};

use super::{GreenContext, Partition, Shape};
use crate::{
    context::GreenContextConfig,
    device::{CudaDevice, Lease},
    driver::{ResourceOwner, query_resource},
    error::{Error, Result},
    resource::{self, SmResource, WorkqueueResource, WorkqueueScope},
};

/// Whether a context's work can wait behind another context's in a workqueue that both use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkqueueIsolation {
    /// The driver keeps its workqueues apart from those of other contexts of this kind, as far as there are
    /// enough (the 13.1 header; no such driver was at hand to measure it).
    Balanced,
    /// It shares workqueues with others, as all contexts do before CUDA 13.1.
    Shared {
        /// Why.
        reason: String,
    },
}

/// The workqueues of a context.
pub(super) struct Workqueues {
    isolation: WorkqueueIsolation,
    /// What it was created with. An existing one holds its context, and must outlive this one.
    _held: Option<WorkqueueResource>,
}

impl Workqueues {
    pub(super) fn shared(reason: impl Into<String>) -> Self {
        Self {
            isolation: WorkqueueIsolation::Shared {
                reason: reason.into(),
            },
            _held: None,
        }
    }

    fn balanced() -> Self {
        Self {
            isolation: WorkqueueIsolation::Balanced,
            _held: None,
        }
    }

    fn given(workqueue: Option<&WorkqueueResource>) -> Self {
        let isolation = match workqueue {
            None => return Self::shared("it was created without a workqueue"),
            Some(workqueue) if workqueue.is_existing() => WorkqueueIsolation::Shared {
                reason: "it was created with the workqueue of another context".to_owned(),
            },
            Some(workqueue) => match workqueue.scope() {
                Some(WorkqueueScope::GreenContextBalanced) => WorkqueueIsolation::Balanced,
                _ => WorkqueueIsolation::Shared {
                    reason: "the workqueue that it was created with is device-wide".to_owned(),
                },
            },
        };
        Self {
            isolation,
            _held: workqueue.cloned(),
        }
    }
}

/// A partition with workqueues of its own where the driver has that, and takes it.
pub(super) fn balanced(
    device: &CudaDevice,
    resources: &[SmResource],
    leases: Vec<Arc<Lease>>,
) -> Result<(Partition, Workqueues)> {
    let driver = device.driver();
    let reason = if device.capabilities().workqueues {
        let with_workqueue = || {
            let workqueue = device
                .workqueue()?
                .with_scope(WorkqueueScope::GreenContextBalanced)?;
            let descriptor = resource::describe_with(driver, resources, Some(workqueue.raw()))?;
            Partition::create(device, descriptor, leases.clone())
        };
        match with_workqueue() {
            Err(error) if is_refusal(&error) => {
                log::warn!("the driver refuses a workqueue balanced among green contexts: {error}");
                format!("the driver refused one balanced among green contexts: {error}")
            }
            partition => return Ok((partition?, Workqueues::balanced())),
        }
    } else {
        "workqueue resources need a driver of CUDA 13.1 or later".to_owned()
    };
    let descriptor = resource::describe(driver, resources)?;
    let partition = Partition::create(device, descriptor, leases)?;
    Ok((partition, Workqueues::shared(reason)))
}

/// Whether the driver may do without the workqueue what it did not do with it.
fn is_refusal(error: &Error) -> bool {
    let codes = [
        CUresult::CUDA_ERROR_INVALID_VALUE,
        CUresult::CUDA_ERROR_NOT_SUPPORTED,
        CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE,
        CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
    ];
    matches!(error, Error::Driver { code, .. } if codes.contains(code))
}

impl GreenContext {
    /// A context over resources that the caller chose: SMs and, from CUDA 13.1 on, a workqueue.
    ///
    /// Of the configuration, `sm_count` is the least that the resources must have; 0 takes what there is.
    /// Without a workqueue it has the driver's default, shared with all contexts. Nothing keeps account here
    /// of SMs that other contexts have: that is the [`SmPartitionManager`](crate::SmPartitionManager)'s.
    ///
    /// Over SMs of a manager's context ([`sm_resource`](Self::sm_resource)), it shares them with that, by the
    /// caller's own will, and holds them: when the name is destroyed, the manager gives them to nobody before this
    /// has ended too. A rebalance, which moves the name to other SMs, leaves it where it is, and no hand-off waits
    /// for its work.
    ///
    /// # Errors
    /// Those of [`SmResource::merge`]; [`Error::IncompatibleResources`] for a workqueue of another device;
    /// [`Error::InsufficientSms`] for fewer SMs than configured; [`Error::InvalidArgument`];
    /// [`Error::Driver`].
    #[doc(alias = "cuGreenCtxCreate")]
    #[doc(alias = "cuDevResourceGenerateDesc")]
    pub fn from_resources(
        sms: &[SmResource],
        workqueue: Option<&WorkqueueResource>,
        config: GreenContextConfig,
    ) -> Result<Self> {
        let sms = SmResource::merge(sms)?;
        let device = sms.device();
        if workqueue.is_some_and(|workqueue| workqueue.device() != device) {
            return Err(Error::IncompatibleResources {
                reason: "the workqueue is of another device than the SMs",
            });
        }
        let sm_count = sms.sm_count();
        let requested_sms = match config.sm_count {
            0 => sm_count,
            asked => asked,
        };
        if requested_sms > sm_count {
            return Err(Error::InsufficientSms {
                requests: requested_sms.to_string(),
                asked: requested_sms,
                available: sm_count,
                stranded: 0,
                total: device.properties().multiprocessor_count,
            });
        }
        let config = GreenContextConfig {
            sm_count: requested_sms,
            ..config
        };
        config.check()?;
        device.raw_primary_context()?; // as in `create`
        let descriptor = resource::describe_with(
            device.driver(),
            slice::from_ref(&sms),
            workqueue.map(WorkqueueResource::raw),
        )?;
        let partition = Partition::create(device, descriptor, sms.leases().to_vec())?;
        let coscheduled = sms.best_coscheduled();
        let shape = Shape {
            requested_sms,
            sm_count,
            coscheduled,
            max_cluster: device.facts().max_cluster(coscheduled),
        };
        Ok(Self::from_parts(
            device,
            config,
            shape,
            Some(partition),
            Workqueues::given(workqueue),
            Arc::default(),
        ))
    }

    /// Its SMs as the driver describes them; they can be split, for contexts within this one.
    ///
    /// Of a manager's context, it holds the SMs as a context over them would: see
    /// [`from_resources`](Self::from_resources).
    ///
    /// # Errors
    /// [`Error::MissingEntryPoint`] before CUDA 12.4; [`Error::Driver`].
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
    /// [`Error::Unsupported`] before CUDA 13.1; [`Error::Driver`].
    #[doc(alias = "cuGreenCtxGetDevResource")]
    pub fn workqueue(&self) -> Result<WorkqueueResource> {
        WorkqueueResource::config_of(self.device(), self.owner()?)
    }

    /// Its workqueue itself, for contexts that are to share it. CUDA 13.1; proven against the real header and
    /// the simulated driver.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before CUDA 13.1; [`Error::Driver`].
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

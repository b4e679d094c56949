//! The workqueues of a context, and whether other contexts share them.

use std::sync::Arc;

use cuda_green_sys::CUresult;

use super::handles::GreenHandles;
use crate::{
    device::{CudaDevice, Lease},
    error::{Error, Result},
    resource::{self, SmResource, WorkqueueResource, WorkqueueScope},
};

/// The isolation of a context's workqueues, which decides whether its work can wait behind another context's work in a
/// workqueue that both use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkqueueIsolation {
    /// The driver gives it different workqueues than other contexts of this kind, while there are enough (the 13.1
    /// header; no such driver was available to measure it).
    Balanced,
    /// It shares workqueues with other contexts, as all contexts do before CUDA 13.1.
    Shared {
        /// The reason for that.
        reason: String,
    },
}

/// The workqueues of a context.
pub(crate) struct Workqueues {
    pub(super) isolation: WorkqueueIsolation,
    /// The resource that the context was created with. An existing workqueue holds its context, which must outlive this
    /// one.
    _held: Option<WorkqueueResource>,
}

impl Workqueues {
    /// Describes shared workqueues, with the reason why they are shared.
    pub(crate) fn shared(reason: impl Into<String>) -> Self {
        Self {
            isolation: WorkqueueIsolation::Shared {
                reason: reason.into(),
            },
            _held: None,
        }
    }

    /// Describes workqueues that the driver balances among green contexts.
    fn balanced() -> Self {
        Self {
            isolation: WorkqueueIsolation::Balanced,
            _held: None,
        }
    }

    /// Describes the workqueues of a context that was created with this resource.
    pub(crate) fn given(workqueue: Option<&WorkqueueResource>) -> Self {
        let isolation = match workqueue {
            None => return Self::shared("it was created without a workqueue"),
            Some(workqueue) if workqueue.is_existing() => WorkqueueIsolation::Shared {
                reason: "it was created with the workqueue of another context".to_owned(),
            },
            Some(workqueue) => match workqueue.scope() {
                Some(WorkqueueScope::GreenContextBalanced) => WorkqueueIsolation::Balanced,
                _ => WorkqueueIsolation::Shared {
                    reason: "it was created with a device-wide workqueue".to_owned(),
                },
            },
        };
        Self {
            isolation,
            _held: workqueue.cloned(),
        }
    }
}

/// Creates a partition with balanced workqueues, or with shared ones if the driver does not have or refuses those.
pub(crate) fn balanced(
    device: &CudaDevice,
    resources: &[SmResource],
    leases: Vec<Arc<Lease>>,
) -> Result<(GreenHandles, Workqueues)> {
    let driver = device.driver();
    let reason = if device.capabilities().workqueues {
        let with_workqueue = || {
            let workqueue = device
                .workqueue()?
                .with_scope(WorkqueueScope::GreenContextBalanced)?;
            let descriptor = resource::describe(driver, resources, Some(workqueue.raw()))?;
            GreenHandles::create(device, descriptor, leases.clone())
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
    let descriptor = resource::describe(driver, resources, None)?;
    let partition = GreenHandles::create(device, descriptor, leases)?;
    Ok((partition, Workqueues::shared(reason)))
}

/// Returns whether the driver may accept the same call without the workqueue.
fn is_refusal(error: &Error) -> bool {
    let codes = [
        CUresult::CUDA_ERROR_INVALID_VALUE,
        CUresult::CUDA_ERROR_NOT_SUPPORTED,
        CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE,
        CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
    ];
    matches!(error, Error::Driver { code, .. } if codes.contains(code))
}

//! Workqueues of a context: who shares them.

use std::sync::Arc;

use cuda_green_sys::CUresult;

use super::handles::Partition;
use crate::{
    device::{CudaDevice, Lease},
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
pub(crate) struct Workqueues {
    pub(super) isolation: WorkqueueIsolation,
    /// What it was created with. An existing one holds its context, and must outlive this one.
    _held: Option<WorkqueueResource>,
}

impl Workqueues {
    pub(crate) fn shared(reason: impl Into<String>) -> Self {
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

    pub(crate) fn given(workqueue: Option<&WorkqueueResource>) -> Self {
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
pub(crate) fn balanced(
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
            let descriptor = resource::describe(driver, resources, Some(workqueue.raw()))?;
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
    let descriptor = resource::describe(driver, resources, None)?;
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

//! Workqueue resources (13.1): configurations, and workqueues that contexts have.
//!
//! Follows the header's text; no driver of 13.1 or later was available. The effect on running work is not simulated.

use cuda_green_sys::{
    CUdevResource, CUdevResource_st__bindgen_ty_1, CUdevResourceType, CUdevWorkqueueConfigResource,
    CUdevWorkqueueConfigScope, CUdevWorkqueueResource, CUresult,
};

use super::{Context, Driver, Kind, State, require};

/// The default of `CUDA_DEVICE_MAX_CONNECTIONS`, from which the limit of a workqueue follows (13.1 header).
const WORKQUEUE_CONCURRENCY: u32 = 8;

/// A workqueue resource, as far as the API shows it: its effect on concurrent work is not simulated.
#[derive(Clone, Copy)]
pub(super) struct Workqueue {
    pub(super) device: usize,
    limit: u32,
    scope: CUdevWorkqueueConfigScope,
    /// The handle of one that exists in some context.
    id: Option<u64>,
}

impl Workqueue {
    /// Makes the workqueue that contexts have by default.
    fn device_wide(device: usize) -> Self {
        Self {
            device,
            limit: WORKQUEUE_CONCURRENCY,
            scope: CUdevWorkqueueConfigScope::CU_WORKQUEUE_SCOPE_DEVICE_CTX,
            id: None,
        }
    }
}

impl Driver {
    /// Returns a workqueue resource of a device or a context.
    pub(super) fn give_workqueue(
        &self,
        state: &mut State,
        context: Result<Context, usize>,
        device: usize,
        kind: CUdevResourceType,
    ) -> Result<CUdevResource, CUresult> {
        match kind {
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG if self.speaks(13, 1) => {
                let workqueue = match context {
                    Ok(Context::Green(handle)) => self.green(state, handle)?.workqueue,
                    _ => Workqueue::device_wide(device),
                };
                Ok(CUdevResource {
                    type_: kind,
                    __bindgen_anon_1: CUdevResource_st__bindgen_ty_1 {
                        wqConfig: CUdevWorkqueueConfigResource {
                            device: device as i32,
                            wqConcurrencyLimit: workqueue.limit,
                            sharingScope: workqueue.scope,
                        },
                    },
                    ..CUdevResource::default()
                })
            }
            // That of a device is what its contexts use by default: NVIDIA's cuda.core 1.2 queries it, and its tests
            // pass on drivers of 13.1. No such driver was available.
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE if self.speaks(13, 1) => {
                let id = match context {
                    Ok(Context::Green(handle)) => match self.green(state, handle)?.workqueue.id {
                        Some(id) => id,
                        None => self.default_workqueue(state, device),
                    },
                    _ => self.default_workqueue(state, device),
                };
                let mut reserved = [0; 40];
                reserved[..8].copy_from_slice(&id.to_ne_bytes());
                Ok(CUdevResource {
                    type_: kind,
                    __bindgen_anon_1: CUdevResource_st__bindgen_ty_1 {
                        wq: CUdevWorkqueueResource { reserved },
                    },
                    ..CUdevResource::default()
                })
            }
            _ => Err(CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE),
        }
    }

    /// Returns the workqueue that all contexts of a device without their own share.
    fn default_workqueue(&self, state: &mut State, device: usize) -> u64 {
        match state.devices[device].workqueue {
            Some(id) => id,
            None => {
                let id = state.new_handle(self.number, Kind::Workqueue);
                state.devices[device].workqueue = Some(id);
                id
            }
        }
    }

    /// Returns the workqueue of a new green context: an existing one, or a new one for a configuration.
    pub(super) fn provide_workqueue(
        &self,
        state: &mut State,
        device: usize,
        given: Option<Workqueue>,
    ) -> Workqueue {
        match given {
            Some(workqueue) if workqueue.id.is_none() => Workqueue {
                id: Some(state.new_handle(self.number, Kind::Workqueue)),
                ..workqueue
            },
            Some(existing) => existing,
            None => Workqueue::device_wide(device),
        }
    }

    /// Returns the workqueue that a resource stands for; `None` if it is not a workqueue.
    pub(super) fn workqueue(
        &self,
        state: &State,
        c: &CUdevResource,
    ) -> Result<Option<Workqueue>, CUresult> {
        match c.type_ {
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG if self.speaks(13, 1) => {
                // SAFETY: every bit pattern is valid for these integers, and the struct is whole.
                let config = unsafe { c.__bindgen_anon_1.wqConfig };
                require(config.sharingScope.0 <= 1)?;
                Ok(Some(Workqueue {
                    device: self.device(config.device)?,
                    limit: config.wqConcurrencyLimit,
                    scope: config.sharingScope,
                    id: None,
                }))
            }
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE if self.speaks(13, 1) => {
                // SAFETY: as above.
                let reserved = unsafe { c.__bindgen_anon_1.wq }.reserved;
                let mut handle = [0; 8];
                handle.copy_from_slice(&reserved[..8]);
                let id = u64::from_ne_bytes(handle);
                // One whose contexts are gone is refused; no driver was available to confirm it.
                let of_contexts = state.greens.values().map(|green| green.workqueue);
                let of_devices = state
                    .devices
                    .iter()
                    .enumerate()
                    .map(|(device, its)| Workqueue {
                        id: its.workqueue,
                        ..Workqueue::device_wide(device)
                    });
                of_contexts
                    .chain(of_devices)
                    .find(|workqueue| workqueue.id == Some(id))
                    .map(Some)
                    .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
            }
            _ => Ok(None),
        }
    }
}

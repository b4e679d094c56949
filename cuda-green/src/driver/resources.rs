//! Queries for resources: SMs and workqueues of a device, a context or a stream, as the driver describes them.

use cuda_green_sys::{
    CUcontext, CUdevResource, CUdevResourceType, CUdevSmResource, CUdevice, CUgreenCtx, CUstream,
};

use super::Driver;
use crate::error::Result;

/// What a resource is asked of.
#[derive(Clone, Copy)]
pub(crate) enum ResourceOwner {
    Device(CUdevice),
    Context(CUcontext),
    Green(CUgreenCtx),
    Stream(CUstream),
}

/// A resource of one type, as the driver describes it. The owner must be live.
pub(crate) fn query_resource(
    driver: &Driver,
    owner: ResourceOwner,
    kind: CUdevResourceType,
) -> Result<CUdevResource> {
    let mut resource = CUdevResource::default();
    let to = &mut resource;
    let api = driver.api();
    // SAFETY: the resource is zeroed and valid for the one that is written; the callers hold the owner.
    let (call, result) = unsafe {
        match owner {
            ResourceOwner::Device(device) => (
                "cuDeviceGetDevResource",
                api.cuDeviceGetDevResource(device, to, kind),
            ),
            ResourceOwner::Context(context) => (
                "cuCtxGetDevResource",
                api.cuCtxGetDevResource(context, to, kind),
            ),
            ResourceOwner::Green(green) => (
                "cuGreenCtxGetDevResource",
                api.cuGreenCtxGetDevResource(green, to, kind),
            ),
            ResourceOwner::Stream(stream) => (
                "cuStreamGetDevResource",
                api.cuStreamGetDevResource(stream, to, kind),
            ),
        }
    };
    driver.check(call, result)?;
    Ok(resource)
}

/// The fields of an SM resource.
pub(crate) fn sm_fields(raw: &CUdevResource) -> CUdevSmResource {
    // SAFETY: the callers have resources that were zeroed and then filled by the driver, if at all, and all
    // fields of every kind are plain integers.
    unsafe { raw.__bindgen_anon_1.sm }
}

//! Queries for the resources, SMs and workqueues, of a device, a context or a stream.

use cuda_green_sys::{
    CUcontext, CUdevResource, CUdevResourceType, CUdevSmResource, CUdevice, CUgreenCtx, CUstream,
};

use super::loaded::Driver;
use crate::{capabilities::Granularity, error::Result};

/// An object of the driver that has resources.
#[derive(Clone, Copy)]
pub(crate) enum ResourceOwner {
    Device(CUdevice),
    Context(CUcontext),
    Green(CUgreenCtx),
    Stream(CUstream),
}

/// Asks the driver for an owner's resource of one type. The owner must be live.
pub(crate) fn query_resource(
    driver: &Driver,
    owner: ResourceOwner,
    kind: CUdevResourceType,
) -> Result<CUdevResource> {
    let mut resource = CUdevResource::default();
    let to = &mut resource;
    // SAFETY: the resource is zeroed and valid for the one that is written; the callers hold the owner.
    unsafe {
        match owner {
            ResourceOwner::Device(device) => driver.cuDeviceGetDevResource(device, to, kind),
            ResourceOwner::Context(context) => driver.cuCtxGetDevResource(context, to, kind),
            ResourceOwner::Green(green) => driver.cuGreenCtxGetDevResource(green, to, kind),
            ResourceOwner::Stream(stream) => driver.cuStreamGetDevResource(stream, to, kind),
        }
    }?;
    Ok(resource)
}

/// Returns the granularity that the driver reports of an SM resource. Before 13.0 it reports none, and 13.0 reports none
/// of a split's parts.
pub(crate) fn reported_granularity(raw: &CUdevResource) -> Option<Granularity> {
    let CUdevSmResource {
        minSmPartitionSize: min,
        smCoscheduledAlignment: coscheduled,
        ..
    } = sm_fields(raw);
    (min > 0 && coscheduled > 0).then_some(Granularity { min, coscheduled })
}

/// Returns the fields of an SM resource.
pub(crate) fn sm_fields(raw: &CUdevResource) -> CUdevSmResource {
    // SAFETY: the callers have resources that were zeroed and then filled by the driver, if at all, and all
    // fields of every kind are plain integers.
    unsafe { raw.__bindgen_anon_1.sm }
}

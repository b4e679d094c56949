//! Calls of the driver API that need several lines each, for code that uses the bare table: the simulator's tests and
//! the workspace's conformance suite.
//!
//! All unsafe blocks rest on the same reasons: pointers are to live values of the right type, and handles are live,
//! null, or deliberately wrong where the driver is known to answer that with a code.

use std::{ffi::CStr, ptr};

use cuda_green_sys::*;

pub const OK: CUresult = CUresult::CUDA_SUCCESS;
pub const SM: CUdevResourceType = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;

/// The code for a call whose function this driver lacks.
pub const MISSING: CUresult = cudaError_enum(u32::MAX);

/// Returns the code of a call of the table.
fn code(answer: Result<CUresult, MissingEntryPoint>) -> Result<(), CUresult> {
    answer.unwrap_or(MISSING).ok()
}

/// The outcome of a split.
pub struct Split {
    pub groups: Vec<CUdevResource>,
    pub rest: CUdevResource,
}

/// Returns the number of SMs of a resource; 0 if it is not one of SMs.
pub fn count(resource: &CUdevResource) -> u32 {
    if resource.type_ == SM {
        unsafe { resource.__bindgen_anon_1.sm }.smCount
    } else {
        0
    }
}

pub fn whole(api: &Api, device: CUdevice) -> Result<CUdevResource, CUresult> {
    let mut resource = CUdevResource::default();
    code(unsafe { api.cuDeviceGetDevResource(device, &mut resource, SM) })?;
    Ok(resource)
}

/// Splits by count into at most `wanted` groups.
pub fn split(
    api: &Api,
    input: &CUdevResource,
    wanted: u32,
    flags: u32,
    min: u32,
) -> Result<Split, CUresult> {
    let mut groups = vec![CUdevResource::default(); wanted as usize];
    let mut rest = CUdevResource::default();
    let mut made = wanted;
    let to = groups.as_mut_ptr();
    code(unsafe { api.cuDevSmResourceSplitByCount(to, &mut made, input, &mut rest, flags, min) })?;
    groups.truncate(made as usize);
    Ok(Split { groups, rest })
}

pub fn descriptor(api: &Api, resources: &[CUdevResource]) -> Result<CUdevResourceDesc, CUresult> {
    let mut resources = resources.to_vec();
    let mut descriptor = ptr::null_mut();
    let (from, n) = (resources.as_mut_ptr(), resources.len() as u32);
    code(unsafe { api.cuDevResourceGenerateDesc(&mut descriptor, from, n) })?;
    Ok(descriptor)
}

pub fn green(
    api: &Api,
    device: CUdevice,
    resources: &[CUdevResource],
) -> Result<CUgreenCtx, CUresult> {
    let descriptor = descriptor(api, resources)?;
    let mut green = ptr::null_mut();
    code(unsafe { api.cuGreenCtxCreate(&mut green, descriptor, device, 1) })?;
    Ok(green)
}

/// Returns the SMs that a green context reports.
pub fn resource(api: &Api, green: CUgreenCtx) -> Result<CUdevResource, CUresult> {
    let mut resource = CUdevResource::default();
    code(unsafe { api.cuGreenCtxGetDevResource(green, &mut resource, SM) })?;
    Ok(resource)
}

pub fn context(api: &Api, green: CUgreenCtx) -> Result<CUcontext, CUresult> {
    let mut context = ptr::null_mut();
    code(unsafe { api.cuCtxFromGreenCtx(&mut context, green) })?;
    Ok(context)
}

pub fn function(api: &Api, module: CUmodule, name: &CStr) -> Result<CUfunction, CUresult> {
    let mut function = ptr::null_mut();
    code(unsafe { api.cuModuleGetFunction(&mut function, module, name.as_ptr()) })?;
    Ok(function)
}

pub fn alloc(api: &Api, bytes: usize) -> Result<CUdeviceptr, CUresult> {
    let mut address = 0;
    code(unsafe { api.cuMemAlloc_v2(&mut address, bytes) })?;
    Ok(address)
}

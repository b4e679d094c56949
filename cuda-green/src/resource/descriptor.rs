//! Descriptors: the resources of one context as the driver takes them.

use std::ptr;

use cuda_green_sys::{CUdevResource, CUdevResourceDesc};

use super::sm::SmResource;
use crate::{driver::Driver, error::Result};

/// Returns the descriptor over SMs of one split, with a workqueue or without (13.1). It lives as long as the process.
pub(crate) fn describe(
    driver: &Driver,
    sms: &[SmResource],
    workqueue: Option<&CUdevResource>,
) -> Result<CUdevResourceDesc> {
    let sms = sms.iter().flat_map(SmResource::raw_parts);
    let mut raw: Vec<CUdevResource> = sms.chain(workqueue).copied().collect();
    let mut descriptor = ptr::null_mut();
    // SAFETY: the array has the length said and holds a driver's resources; the output is valid.
    unsafe {
        driver.cuDevResourceGenerateDesc(&mut descriptor, raw.as_mut_ptr(), raw.len() as u32)
    }?;
    Ok(descriptor)
}

//! Queries of a device's properties.

use std::ffi::{CStr, c_int};

use cuda_green_sys::{CUdevResourceType, CUdevice, CUdevice_attribute, CUresult, CUuuid};

use crate::{
    capabilities::Granularity,
    driver::{Driver, ResourceOwner, query_resource, reported_granularity},
    error::{Error, Result},
};

/// Returns an attribute of the device.
pub(super) fn attribute(
    driver: &Driver,
    device: CUdevice,
    which: CUdevice_attribute,
) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: the pointer is valid for the one integer that is written.
    unsafe { driver.cuDeviceGetAttribute(&mut value, which, device) }?;
    Ok(value)
}

/// Returns the driver's name for the device.
pub(super) fn name(driver: &Driver, device: CUdevice) -> Result<String> {
    let mut name = [0u8; 256];
    // SAFETY: the buffer is as long as said, and the driver ends what it writes with a NUL.
    unsafe { driver.cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device) }?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// Returns the device's UUID: that of its part, where it is divided by MIG.
pub(super) fn uuid(driver: &Driver, device: CUdevice) -> Result<[u8; 16]> {
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: the pointer is valid for the one struct that is written.
    unsafe { driver.cuDeviceGetUuid_v2(&mut uuid, device) }?;
    Ok(uuid.bytes.map(|byte| byte as u8))
}

/// Returns the granularity that the driver reports, if any, or as the inner error the reason why the device has no green
/// contexts.
pub(super) fn granularity(
    driver: &Driver,
    device: CUdevice,
) -> Result<Result<Option<Granularity>, String>> {
    let kind = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    match query_resource(driver, ResourceOwner::Device(device), kind) {
        Ok(resource) => Ok(Ok(reported_granularity(&resource))),
        Err(Error::MissingEntryPoint(missing)) if missing.entry_point.since > missing.driver => {
            Ok(Err(format!(
                "green contexts need a driver of CUDA 12.4 or later; this one speaks CUDA {}",
                driver.version()
            )))
        }
        // The driver's version has the call, but it is hidden; the error says by what.
        Err(Error::MissingEntryPoint(missing)) => Ok(Err(missing.to_string())),
        // A driver that has the call may still refuse the device: an old architecture, or some virtual GPUs.
        Err(error) if error.is_refusal(CUresult::CUDA_ERROR_NOT_SUPPORTED) => Ok(Err(
            "the driver says that this device does not support green contexts".to_owned(),
        )),
        Err(error) => Err(error),
    }
}

//! Functions that the simulator does not have because a more general one does the same.

use std::ffi::{CStr, c_uint, c_void};

use cuda_green_sys::{CUdevice, CUresult, CUstream, CUuuid};

use crate::exports;

/// Returns the address of one of them by the name and the version that `cuGetProcAddress` is asked for.
pub(crate) fn find(name: &CStr, version: i32) -> Option<*const c_void> {
    Some(match name.to_bytes() {
        b"cuStreamCreate" => cuStreamCreate as *const c_void,
        b"cuDeviceGetUuid" if version < 11_040 => cuDeviceGetUuid as *const c_void,
        b"cuMemAllocHost" => cuMemAllocHost_v2 as *const c_void,
        _ => return None,
    })
}

/// # Safety
/// The rules of the driver's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, flags: c_uint) -> CUresult {
    // SAFETY: the same rules; 0 is the priority of a stream that is made without one.
    unsafe { exports::cuStreamCreateWithPriority(stream, flags, 0) }
}

/// Returns the UUID in the form up to 11.3, which differs only on partitions of another kind (MIG).
///
/// # Safety
/// The rules of the driver's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice) -> CUresult {
    // SAFETY: the same rules.
    unsafe { exports::cuDeviceGetUuid_v2(uuid, device) }
}

/// # Safety
/// The rules of the driver's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) -> CUresult {
    // SAFETY: the same rules; without flags it is this function.
    unsafe { exports::cuMemHostAlloc(pointer, bytes, 0) }
}

//! `cuGetProcAddress`, by which most clients find all other functions.

use std::ffi::{CStr, c_char, c_int, c_void};

use cuda_green_sys::{CUresult, CudaVersion};

use crate::{instance::instance, symbol_aliases};

/// The status of a name (`CUdriverProcAddressQueryResult`).
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Yes = 0,
    NoSuchName = 1,
    OlderVersion = 2,
}

/// Finds the address of a function by its name and the version of its ABI.
fn find(name: &CStr, version: c_int) -> Result<(*const c_void, Found), CUresult> {
    let sim = &instance()?.sim;
    let own = sim.profile().cuda_version;
    if name == c"cuGetProcAddress" {
        let with_status = version >= 12_000 && own >= CudaVersion::new(12, 0);
        return Ok(if with_status {
            (cuGetProcAddress_v2 as *const c_void, Found::Yes)
        } else if version >= 11_030 {
            (cuGetProcAddress as *const c_void, Found::Yes)
        } else {
            (std::ptr::null(), Found::OlderVersion)
        });
    }
    // Above its own version it finds nothing, in these forms either.
    let asked = CudaVersion::from_raw(version);
    if asked <= own
        && let Some(address) = symbol_aliases::find(name, version)
    {
        return Ok((address, Found::Yes));
    }
    let address = sim.resolve(name, asked);
    Ok(if !address.is_null() {
        (address, Found::Yes)
    } else if sim.resolve(name, own).is_null() {
        (address, Found::NoSuchName)
    } else {
        (address, Found::OlderVersion)
    })
}

/// # Safety
/// `name` is null or a C string; the other pointers are null or valid for one value.
unsafe fn look_up(
    name: *const c_char,
    address: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> Result<Found, CUresult> {
    // The three forms of the default stream: all functions here serve all of them.
    if name.is_null() || address.is_null() || flags > 2 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: not null, so a C string by the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let (found, status) = find(name, version)?;
    // SAFETY: not null, so valid for one pointer by the caller's promise.
    unsafe { address.write(found.cast_mut()) };
    Ok(status)
}

/// Looks a function up in the form up to 11.8: a name that is not found is an error.
///
/// # Safety
/// The rules of the driver's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    cuda_version: c_int,
    flags: u64,
) -> CUresult {
    // SAFETY: the caller keeps the rules of the driver's function.
    match unsafe { look_up(symbol, pfn, cuda_version, flags) } {
        Ok(Found::Yes) => CUresult::CUDA_SUCCESS,
        // As driver 555 answers.
        Ok(_) => CUresult::CUDA_ERROR_NOT_FOUND,
        Err(code) => code,
    }
}

/// Looks a function up in the form from 12.0 on: success, a null address, and a status that says why (as driver 555
/// answers). This library
/// exports it whatever version it supports (driver 470 does not export it).
///
/// # Safety
/// The rules of the driver's function of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    cuda_version: c_int,
    flags: u64,
    status: *mut u32,
) -> CUresult {
    // SAFETY: the caller keeps the rules of the driver's function.
    match unsafe { look_up(symbol, pfn, cuda_version, flags) } {
        Ok(found) => {
            if !status.is_null() {
                // SAFETY: not null, so valid for one value by the rules of the driver's function.
                unsafe { status.write(found as u32) };
            }
            CUresult::CUDA_SUCCESS
        }
        Err(code) => code,
    }
}

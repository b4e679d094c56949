//! Every entry point of the simulated driver as C functions, one for each slot: the only unsafe door in.
//!
//! To add one: give [`Driver`] a method of its name, and add its line here. A test compares the lines
//! with the table of `cuda-green-sys`, so none can be missing and no signature can differ.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use cuda_green_sys::*;

use crate::{
    driver::Driver,
    raw::Arg,
    slots::{self, MAX_DRIVERS},
};

/// The function of each slot, in an array.
macro_rules! one_for_each_slot {
    ($name:ident, $ty:ty) => {{
        const FUNCTIONS: [$ty; MAX_DRIVERS] = one_for_each_slot!(
            @list $name: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        );
        FUNCTIONS
    }};
    (@list $name:ident: $($slot:literal)+) => { [$(by_slot::$name::<$slot>),+] };
}

macro_rules! entry_points {
    ($( $name:ident($($arg:ident: $ty:ty),* $(,)?); )+) => {
        /// The calls themselves, once for all slots.
        #[allow(clippy::too_many_arguments)]
        mod in_slot {
            use super::*;
            $(
                /// # Safety
                /// The rules of the driver's function of this name.
                pub(super) unsafe fn $name(slot: usize, $($arg: $ty),*) -> CUresult {
                    slots::call(slot, stringify!($name), &mut |driver: &Driver| {
                        // SAFETY: the caller keeps the rules of the driver's function, which are the
                        // promise that `lift` asks for.
                        $(let $arg = unsafe { $arg.lift() };)*
                        driver.$name($($arg),*)
                    })
                }
            )+
        }

        /// The C functions. They only add the slot's number, so that they stay a few instructions each.
        #[allow(clippy::too_many_arguments)]
        mod by_slot {
            use super::*;
            $(
                /// # Safety
                /// The rules of the driver's function of this name.
                pub(super) unsafe extern "C" fn $name<const SLOT: usize>($($arg: $ty),*) -> CUresult {
                    // SAFETY: the same rules.
                    unsafe { in_slot::$name(SLOT, $($arg),*) }
                }
            )+
        }

        /// The address of an entry point's C function for a slot, by its exported symbol.
        pub(crate) fn address(symbol: &CStr, slot: usize) -> Option<*const c_void> {
            match symbol.to_str().ok()? {
                $(stringify!($name) => {
                    let functions = one_for_each_slot!($name, unsafe extern "C" fn($($ty),*) -> CUresult);
                    functions.get(slot).map(|function| *function as *const c_void)
                })+
                _ => None,
            }
        }

        /// Each entry point's signature as this table states it.
        #[cfg(test)]
        pub(crate) static SIGNATURES: &[(&str, &str)] = &[$(
            (stringify!($name), stringify!(($($arg: $ty),*))),
        )+];
    };
}

entry_points! {
    cuInit(Flags: c_uint);
    cuDriverGetVersion(driverVersion: *mut c_int);
    cuGetErrorName(error: CUresult, pStr: *mut *const c_char);
    cuGetErrorString(error: CUresult, pStr: *mut *const c_char);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice);
    cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice);
    cuDeviceGetAttribute(pi: *mut c_int, attrib: CUdevice_attribute, dev: CUdevice);
    cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice);
    cuDevicePrimaryCtxRelease_v2(dev: CUdevice);
    cuDevicePrimaryCtxGetState(dev: CUdevice, flags: *mut c_uint, active: *mut c_int);
    cuCtxGetCurrent(pctx: *mut CUcontext);
    cuCtxSetCurrent(ctx: CUcontext);
    cuCtxPushCurrent_v2(ctx: CUcontext);
    cuCtxPopCurrent_v2(pctx: *mut CUcontext);
    cuCtxGetDevice(device: *mut CUdevice);
    cuCtxSynchronize();
    cuCtxGetStreamPriorityRange(leastPriority: *mut c_int, greatestPriority: *mut c_int);
    cuDeviceGetDevResource(device: CUdevice, resource: *mut CUdevResource, type_: CUdevResourceType);
    cuCtxGetDevResource(hCtx: CUcontext, resource: *mut CUdevResource, type_: CUdevResourceType);
    cuGreenCtxGetDevResource(hCtx: CUgreenCtx, resource: *mut CUdevResource, type_: CUdevResourceType);
    cuDevSmResourceSplitByCount(result: *mut CUdevResource, nbGroups: *mut c_uint, input: *const CUdevResource, remainder: *mut CUdevResource, flags: c_uint, minCount: c_uint);
    cuDevSmResourceSplit(result: *mut CUdevResource, nbGroups: c_uint, input: *const CUdevResource, remainder: *mut CUdevResource, flags: c_uint, groupParams: *mut CU_DEV_SM_RESOURCE_GROUP_PARAMS);
    cuDevResourceGenerateDesc(phDesc: *mut CUdevResourceDesc, resources: *mut CUdevResource, nbResources: c_uint);
    cuGreenCtxCreate(phCtx: *mut CUgreenCtx, desc: CUdevResourceDesc, dev: CUdevice, flags: c_uint);
    cuGreenCtxDestroy(hCtx: CUgreenCtx);
    cuCtxFromGreenCtx(pContext: *mut CUcontext, hCtx: CUgreenCtx);
    cuGreenCtxRecordEvent(hCtx: CUgreenCtx, hEvent: CUevent);
    cuGreenCtxWaitEvent(hCtx: CUgreenCtx, hEvent: CUevent);
    cuGreenCtxStreamCreate(phStream: *mut CUstream, greenCtx: CUgreenCtx, flags: c_uint, priority: c_int);
    cuGreenCtxGetId(greenCtx: CUgreenCtx, greenCtxId: *mut c_ulonglong);
    cuStreamCreateWithPriority(phStream: *mut CUstream, flags: c_uint, priority: c_int);
    cuStreamDestroy_v2(hStream: CUstream);
    cuStreamSynchronize(hStream: CUstream);
    cuStreamQuery(hStream: CUstream);
    cuStreamWaitEvent(hStream: CUstream, hEvent: CUevent, Flags: c_uint);
    cuStreamGetPriority(hStream: CUstream, priority: *mut c_int);
    cuStreamGetFlags(hStream: CUstream, flags: *mut c_uint);
    cuStreamGetCtx_v2(hStream: CUstream, pCtx: *mut CUcontext, pGreenCtx: *mut CUgreenCtx);
    cuStreamGetGreenCtx(hStream: CUstream, phCtx: *mut CUgreenCtx);
    cuStreamGetDevResource(hStream: CUstream, resource: *mut CUdevResource, type_: CUdevResourceType);
    cuEventCreate(phEvent: *mut CUevent, Flags: c_uint);
    cuEventDestroy_v2(hEvent: CUevent);
    cuEventRecord(hEvent: CUevent, hStream: CUstream);
    cuEventQuery(hEvent: CUevent);
    cuEventSynchronize(hEvent: CUevent);
    cuEventElapsedTime(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent);
    cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    cuModuleLoadDataEx(module: *mut CUmodule, image: *const c_void, numOptions: c_uint, options: *mut CUjit_option, optionValues: *mut *mut c_void);
    cuModuleUnload(hmod: CUmodule);
    cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char);
    cuLaunchKernel(f: CUfunction, gridDimX: c_uint, gridDimY: c_uint, gridDimZ: c_uint, blockDimX: c_uint, blockDimY: c_uint, blockDimZ: c_uint, sharedMemBytes: c_uint, hStream: CUstream, kernelParams: *mut *mut c_void, extra: *mut *mut c_void);
    cuLaunchKernelEx(config: *const CUlaunchConfig, f: CUfunction, kernelParams: *mut *mut c_void, extra: *mut *mut c_void);
    cuOccupancyMaxPotentialClusterSize(clusterSize: *mut c_int, func: CUfunction, config: *const CUlaunchConfig);
    cuOccupancyMaxActiveClusters(numClusters: *mut c_int, func: CUfunction, config: *const CUlaunchConfig);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize);
    cuMemFree_v2(dptr: CUdeviceptr);
    cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: c_uint);
    cuMemFreeHost(p: *mut c_void);
    cuMemcpyHtoD_v2(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize);
    cuMemcpyDtoH_v2(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize);
    cuMemcpyHtoDAsync_v2(dstDevice: CUdeviceptr, srcHost: *const c_void, ByteCount: usize, hStream: CUstream);
    cuMemcpyDtoHAsync_v2(dstHost: *mut c_void, srcDevice: CUdeviceptr, ByteCount: usize, hStream: CUstream);
    cuMemsetD8Async(dstDevice: CUdeviceptr, uc: u8, N: usize, hStream: CUstream);
    cuMemPoolCreate(pool: *mut CUmemoryPool, poolProps: *const CUmemPoolProps);
    cuMemPoolDestroy(pool: CUmemoryPool);
    cuMemPoolSetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void);
    cuMemPoolGetAttribute(pool: CUmemoryPool, attr: CUmemPool_attribute, value: *mut c_void);
    cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize);
    cuMemAllocFromPoolAsync(dptr: *mut CUdeviceptr, bytesize: usize, pool: CUmemoryPool, hStream: CUstream);
    cuMemFreeAsync(dptr: CUdeviceptr, hStream: CUstream);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_bindings() {
        let ours: std::collections::BTreeMap<_, _> = SIGNATURES.iter().copied().collect();
        for (name, signature) in cuda_green_sys::SIGNATURES {
            assert_eq!(ours.get(name), Some(signature), "{name}");
        }
        assert_eq!(ours.len(), cuda_green_sys::SIGNATURES.len());
    }

    #[test]
    fn every_slot_has_a_function_of_its_own() {
        for entry in ENTRY_POINTS {
            let addresses: std::collections::BTreeSet<_> = (0..MAX_DRIVERS)
                .map(|slot| address(entry.symbol, slot).unwrap())
                .collect();
            assert_eq!(addresses.len(), MAX_DRIVERS, "{}", entry.name());
            assert!(address(entry.symbol, MAX_DRIVERS).is_none());
        }
    }
}

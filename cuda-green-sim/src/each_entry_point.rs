//! The list of the simulated driver's entry points, one line for each, for the macros that make functions
//! of it: those of the slots here, and the exported ones of `cuda-green-sim-driver`.

/// Calls a macro with the list. The names of the types must be in scope there: those of `std::ffi` and all
/// of `cuda_green_sys`. Not for users: it may change with any release.
#[doc(hidden)]
#[macro_export]
macro_rules! each_entry_point {
    ($callback:ident) => {
        $callback! {
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
    };
}

"""NVIDIA's own bindings of the driver API, `cuda-bindings`: a partition made, used and taken down."""

import sys

from cuda.bindings import driver as cu

version = int(sys.argv[1])


def call(function, *arguments):
    code, *values = function(*arguments)
    assert code == cu.CUresult.CUDA_SUCCESS, (function.__name__, code)
    return values[0] if len(values) == 1 else values


SM = cu.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
call(cu.cuInit, 0)
assert call(cu.cuDriverGetVersion) == version
device = call(cu.cuDeviceGet, 0)
assert bytes(call(cu.cuDeviceGetUuid, device).bytes).startswith(b"GREENSIM")
context = call(cu.cuDevicePrimaryCtxRetain, device)
call(cu.cuCtxSetCurrent, context)

whole = call(cu.cuDeviceGetDevResource, device, SM)
groups, count, rest = call(cu.cuDevSmResourceSplitByCount, 4, whole, 0, 32)
assert count == 4 and [group.sm.smCount for group in groups] == [32] * 4
assert rest.sm.smCount == whole.sm.smCount - 128
description = call(cu.cuDevResourceGenerateDesc, groups[:1], 1)
# No flags: refused before 13.3.
code, _ = cu.cuGreenCtxCreate(description, device, 0)
assert (code == cu.CUresult.CUDA_SUCCESS) == (version >= 13030), code
flag = cu.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
green = call(cu.cuGreenCtxCreate, description, device, flag)
own = call(cu.cuGreenCtxGetDevResource, green, SM)
assert own.sm.smCount == 32
if version >= 12050:
    stream = call(cu.cuGreenCtxStreamCreate, green, cu.CUstream_flags.CU_STREAM_NON_BLOCKING, -2)
    assert call(cu.cuStreamGetPriority, stream) == -2
    address = call(cu.cuMemAlloc, 64)
    call(cu.cuMemcpyHtoDAsync, address, bytes(range(64)), 64, stream)
    call(cu.cuStreamSynchronize, stream)
    read = bytearray(64)
    call(cu.cuMemcpyDtoH, read, address, 64)
    assert read == bytes(range(64))
    pool = call(cu.cuDeviceGetDefaultMemPool, device)
    pooled = call(cu.cuMemAllocAsync, 64, stream)
    of = call(cu.cuPointerGetAttribute, cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pooled)
    assert int(of) == int(pool)
    call(cu.cuMemFreeAsync, pooled, stream)
    call(cu.cuStreamSynchronize, stream)

    ptx = b".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry k() { ret; }\n\0"
    library = call(cu.cuLibraryLoadData, ptx, None, None, 0, None, None, 0)
    kernel = call(cu.cuLibraryGetKernel, library, b"k")
    function = call(cu.cuKernelGetFunction, kernel)
    most = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
    assert call(cu.cuFuncGetAttribute, most, function) == 1024
    call(cu.cuStreamBeginCapture, stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
    call(cu.cuMemsetD8Async, address, 7, 64, stream)
    call(cu.cuLaunchKernel, function, 1, 1, 1, 32, 1, 1, 0, stream, 0, 0)
    graph = call(cu.cuStreamEndCapture, stream)
    executable = call(cu.cuGraphInstantiate, graph, 0)
    call(cu.cuMemcpyDtoH, read, address, 64)
    assert read == bytes(range(64)), "a capture does nothing"
    call(cu.cuGraphLaunch, executable, stream)
    call(cu.cuStreamSynchronize, stream)
    call(cu.cuMemcpyDtoH, read, address, 64)
    assert read == bytes([7] * 64)
    call(cu.cuGraphExecDestroy, executable)
    call(cu.cuGraphDestroy, graph)
    call(cu.cuLibraryUnload, library)
    call(cu.cuMemFree, address)
    call(cu.cuStreamDestroy, stream)
call(cu.cuGreenCtxDestroy, green)
code, _ = cu.cuCtxFromGreenCtx(green)
assert code == cu.CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED, code
print("went well")

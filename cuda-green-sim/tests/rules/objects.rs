//! Libraries, functions, default pools, registered host memory, pointers and virtual memory.

use std::{ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::client::*;

fn library(client: &Client, image: &std::ffi::CStr) -> Result<CUlibrary, CUresult> {
    let (mut library, none) = (ptr::null_mut(), ptr::null_mut());
    let image = image.as_ptr().cast();
    let (options, values) = (ptr::null_mut(), ptr::null_mut());
    call!(
        client,
        cuLibraryLoadData(
            &mut library,
            image,
            options,
            values,
            0,
            ptr::null_mut(),
            none,
            0
        )
    )
    .ok()?;
    Ok(library)
}

#[test]
fn a_library_is_a_module_of_each_context_that_uses_it() {
    let client = Client::new("2xh200@13.0");
    ok!(client, cuCtxSetCurrent(ptr::null_mut()));
    let loaded = library(&client, PTX).unwrap(); // without a context
    let mut kernel = ptr::null_mut();
    let name = c"custom".as_ptr();
    // A useless image is reported when something of it is requested.
    let useless = library(&client, c"hello").unwrap();
    let code = call!(client, cuLibraryGetKernel(&mut kernel, useless, name));
    assert_eq!(code, CUresult::CUDA_ERROR_INVALID_IMAGE);
    ok!(client, cuLibraryUnload(useless));
    ok!(client, cuLibraryGetKernel(&mut kernel, loaded, name));
    let no_context = CUresult::CUDA_ERROR_INVALID_CONTEXT;
    let mut function = ptr::null_mut();
    let code = call!(client, cuKernelGetFunction(&mut function, kernel));
    assert_eq!(code, no_context);
    let mut other = ptr::null_mut();
    ok!(client, cuDevicePrimaryCtxRetain(&mut other, 1));
    let mut modules = Vec::new();
    for context in [client.primary, other] {
        ok!(client, cuCtxSetCurrent(context));
        let mut module = ptr::null_mut();
        ok!(client, cuLibraryGetModule(&mut module, loaded));
        ok!(client, cuKernelGetFunction(&mut function, kernel));
        let mut of = ptr::null_mut();
        ok!(client, cuFuncGetModule(&mut of, function));
        assert_eq!(of, module);
        let mut by_name = ptr::null_mut();
        ok!(client, cuModuleGetFunction(&mut by_name, module, name));
        assert_eq!(by_name, function, "of the kernel");
        let refused = CUresult::CUDA_ERROR_NOT_PERMITTED;
        assert_eq!(call!(client, cuModuleUnload(module)), refused);
        modules.push(module);
        // Both the function and the kernel can be launched.
        let mut argument = 0_u64;
        for launched in [function, kernel.cast()] {
            let mut args: [*mut c_void; 1] = [(&raw mut argument).cast()];
            assert_eq!(client.launch(launched, 1, ptr::null_mut(), &mut args), OK);
        }
    }
    assert_ne!(modules[0], modules[1]);
    assert_eq!(client.sim.live_objects().libraries, 1);
    assert_eq!(client.sim.live_objects().modules, 0);
    ok!(client, cuLibraryUnload(loaded));
    let gone = CUresult::CUDA_ERROR_INVALID_HANDLE;
    assert_eq!(call!(client, cuLibraryUnload(loaded)), gone);
    assert_eq!(client.launch(function, 1, ptr::null_mut(), &mut []), gone);
    ok!(client, cuDevicePrimaryCtxRelease_v2(1));
    client.finish();
}

#[test]
fn more_shared_memory_is_to_be_asked_for() {
    let client = Client::new("h200@13.0");
    let (module, function) = client.function(c"custom");
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let launch = |bytes| {
        let mut argument = 0_u64;
        let mut args: [*mut c_void; 1] = [(&raw mut argument).cast()];
        let (args, none) = (args.as_mut_ptr(), ptr::null_mut());
        let stream = ptr::null_mut();
        call!(
            client,
            cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, bytes, stream, args, none)
        )
    };
    assert_eq!(launch(100 << 10), INVALID_VALUE);
    let set = |bytes| call!(client, cuFuncSetAttribute(function, attribute, bytes));
    let fit = |threads, shared| {
        let mut blocks = 0;
        let code = call!(
            client,
            cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, threads, shared)
        );
        code.ok().map(|()| blocks)
    };
    assert_eq!(set(228 << 10), INVALID_VALUE);
    assert_eq!(fit(32, 100 << 10), Ok(0), "not asked for yet");
    assert_eq!(set(100 << 10), OK);
    assert_eq!(launch(100 << 10), OK);
    let mut value = 0;
    ok!(client, cuFuncGetAttribute(&mut value, attribute, function));
    assert_eq!(value, 100 << 10);
    assert_eq!(fit(1024, 0), Ok(2));
    assert_eq!(fit(32, 0), Ok(32));
    assert_eq!(fit(32, 100 << 10), Ok(2));
    assert_eq!(fit(0, 0), Err(INVALID_VALUE));
    ok!(client, cuModuleUnload(module));
    client.finish();
}

/// Attributes set on a kernel apply to its function, but not the other way round.
#[test]
fn a_kernel_and_its_function_have_attributes_of_their_own() {
    let client = Client::new("h200@13.0");
    let loaded = library(&client, PTX).unwrap();
    let (mut kernel, mut function) = (ptr::null_mut(), ptr::null_mut());
    let name = c"custom".as_ptr();
    ok!(client, cuLibraryGetKernel(&mut kernel, loaded, name));
    ok!(client, cuKernelGetFunction(&mut function, kernel));
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let both = || {
        let (mut of_kernel, mut of_function) = (0, 0);
        ok!(
            client,
            cuKernelGetAttribute(&mut of_kernel, attribute, kernel, 0)
        );
        ok!(
            client,
            cuFuncGetAttribute(&mut of_function, attribute, function)
        );
        (of_kernel, of_function)
    };
    assert_eq!(both(), (48 << 10, 48 << 10));
    ok!(client, cuKernelSetAttribute(attribute, 64 << 10, kernel, 0));
    assert_eq!(both(), (64 << 10, 64 << 10));
    ok!(client, cuFuncSetAttribute(function, attribute, 100 << 10));
    assert_eq!(both(), (64 << 10, 100 << 10));
    ok!(client, cuLibraryUnload(loaded));
    client.finish();
}

#[test]
fn every_device_has_a_pool_and_one_that_is_current() {
    let client = Client::new("h200@13.0");
    let (mut default, mut current) = (ptr::null_mut(), ptr::null_mut());
    ok!(client, cuDeviceGetDefaultMemPool(&mut default, 0));
    ok!(client, cuDeviceGetMemPool(&mut current, 0));
    assert_eq!(default, current);
    assert_eq!(call!(client, cuMemPoolDestroy(default)), INVALID_VALUE);
    let mut props = CUmemPoolProps {
        allocType: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        maxSize: 32 << 20,
        ..CUmemPoolProps::default()
    };
    props.location.type_ = CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE;
    let mut own = ptr::null_mut();
    ok!(client, cuMemPoolCreate(&mut own, &props));
    ok!(client, cuDeviceSetMemPool(0, own));
    let (mut address, stream) = (0, ptr::null_mut());
    let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    let take = |address: &mut u64| call!(client, cuMemAllocAsync(address, 33 << 20, stream));
    assert_eq!(
        take(&mut address),
        full,
        "the limit of the pool that is current"
    );
    ok!(client, cuMemPoolDestroy(own));
    ok!(client, cuDeviceGetMemPool(&mut current, 0));
    assert_eq!(current, default);
    assert_eq!(take(&mut address), OK);
    let mut of: CUmemoryPool = ptr::null_mut();
    let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE;
    let data = (&raw mut of).cast();
    ok!(client, cuPointerGetAttribute(data, attribute, address + 5));
    assert_eq!(of, default);
    let mut context = client.primary;
    let data = (&raw mut context).cast();
    let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT;
    ok!(client, cuPointerGetAttribute(data, attribute, address));
    assert!(context.is_null(), "of no context");
    ok!(client, cuMemFreeAsync(address, stream));
    client.finish();
}

#[test]
fn host_memory_of_the_clients_own_can_be_pinned() {
    let client = Client::new("h200@13.0");
    let mut own = vec![7_u8; 4096];
    let pointer = own.as_mut_ptr().cast::<c_void>();
    let register = || call!(client, cuMemHostRegister_v2(pointer, 4096, 0));
    assert_eq!(register(), OK);
    let twice = CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    assert_eq!(register(), twice);
    let mut address = 0;
    ok!(
        client,
        cuMemHostGetDevicePointer_v2(&mut address, pointer, 0)
    );
    ok!(client, cuMemsetD8Async(address + 1, 9, 2, ptr::null_mut()));
    ok!(client, cuCtxSynchronize());
    let kind = CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    let mut value = 0_u32;
    ok!(
        client,
        cuPointerGetAttribute((&raw mut value).cast(), kind, address)
    );
    assert_eq!(value, 1);
    assert_eq!(call!(client, cuMemFreeHost(pointer)), INVALID_VALUE);
    let within = pointer.wrapping_byte_add(100);
    assert_eq!(call!(client, cuMemHostUnregister(within)), INVALID_VALUE);
    let mut pinned = ptr::null_mut();
    ok!(client, cuMemHostAlloc(&mut pinned, 4096, 0));
    let again = call!(client, cuMemHostRegister_v2(pinned, 4096, 0));
    let back = call!(client, cuMemHostUnregister(pinned));
    assert_eq!([again, back], [INVALID_VALUE; 2]);
    ok!(client, cuMemFreeHost(pinned));
    assert_eq!(client.sim.live_objects().host_registrations, 1);
    ok!(client, cuMemHostUnregister(pointer));
    let not = CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    assert_eq!(call!(client, cuMemHostUnregister(pointer)), not);
    let none = call!(
        client,
        cuMemHostGetDevicePointer_v2(&mut address, pointer, 0)
    );
    assert_eq!(none, INVALID_VALUE);
    assert_eq!(own[..4], [7, 9, 9, 7]);
    client.finish();
}

#[test]
fn words_and_copies_within_the_device() {
    let client = Client::new("h200@13.0");
    let (from, to) = (
        client.alloc(400_000).unwrap(),
        client.alloc(400_000).unwrap(),
    );
    let none = ptr::null_mut();
    ok!(client, cuMemsetD32Async(from, 0x0102_0304, 100_000, none));
    ok!(client, cuMemcpyDtoDAsync_v2(to, from, 400_000, none));
    let mut words = vec![0_u32; 100_000];
    ok!(
        client,
        cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), to, 400_000)
    );
    assert!(words.iter().all(|word| *word == 0x0102_0304));
    let wrong = [
        call!(client, cuMemsetD32Async(from + 1, 0, 1, none)),
        call!(client, cuMemsetD32Async(from, 0, 100_001, none)),
        call!(client, cuMemcpyDtoD_v2(to, from + 1, 400_000)),
    ];
    assert_eq!(wrong, [INVALID_VALUE; 3]);
    ok!(client, cuMemFree_v2(from));
    ok!(client, cuMemFree_v2(to));
    client.finish();
}

#[test]
fn memory_is_put_behind_addresses() {
    const STEP: usize = 2 << 20;
    let client = Client::new("h200@13.0");
    let mut prop = CUmemAllocationProp {
        type_: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        ..CUmemAllocationProp::default()
    };
    prop.location.type_ = CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE;
    let mut step = 0;
    let least = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
    ok!(
        client,
        cuMemGetAllocationGranularity(&mut step, &prop, least)
    );
    assert_eq!(step, STEP);
    let free = || {
        let mut free = 0;
        ok!(client, cuMemGetInfo_v2(&mut free, ptr::null_mut()));
        free
    };
    let before = free();
    let mut handle = 0;
    let code = call!(client, cuMemCreate(&mut handle, STEP + 1, &prop, 0));
    assert_eq!(code, INVALID_VALUE);
    ok!(client, cuMemCreate(&mut handle, STEP, &prop, 0));
    assert_eq!(before - free(), STEP);
    let mut address = 0;
    ok!(client, cuMemAddressReserve(&mut address, 3 * STEP, 0, 0, 0));
    assert_eq!(address % STEP as u64, 0);
    // Maps the same memory twice, side by side.
    let second = address + STEP as u64;
    ok!(client, cuMemMap(address, STEP, 0, handle, 0));
    let map = |address| call!(client, cuMemMap(address, STEP, 0, handle, 0));
    assert_eq!(map(address), INVALID_VALUE, "mapped already");
    assert_eq!(
        map(address + 3 * STEP as u64),
        INVALID_VALUE,
        "not reserved"
    );
    let all_of_it = CUresult::CUDA_ERROR_NOT_SUPPORTED;
    for (bytes, offset) in [(STEP / 2, 0), (2 * STEP, 0), (STEP, STEP)] {
        let code = call!(client, cuMemMap(second, bytes, offset, handle, 0));
        assert_eq!(code, all_of_it);
    }
    assert_eq!(map(second), OK);
    let none = ptr::null_mut();
    let set = |address, bytes| call!(client, cuMemsetD8Async(address, 3, bytes, none));
    assert_eq!(set(address, 4), INVALID_VALUE, "nobody may at first");
    let mut access = CUmemAccessDesc {
        location: prop.location,
        flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READ,
    };
    ok!(client, cuMemSetAccess(address, 2 * STEP, &access, 1));
    assert_eq!(set(address, 4), INVALID_VALUE, "read only");
    access.flags = CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    ok!(client, cuMemSetAccess(address, 2 * STEP, &access, 1));
    assert_eq!(set(second - 2, 4), OK, "over the border between the two");
    let mut bytes = [0_u8; 4];
    ok!(
        client,
        cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), address, 4)
    );
    assert_eq!(bytes, [3, 3, 0, 0], "what was written at the other address");
    let unmap = |address, bytes| call!(client, cuMemUnmap(address, bytes));
    assert_eq!(
        call!(client, cuMemAddressFree(address, 3 * STEP)),
        INVALID_VALUE
    );
    ok!(client, cuMemRelease(handle));
    assert_eq!(call!(client, cuMemRelease(handle)), INVALID_VALUE);
    assert_eq!(before - free(), STEP, "still mapped");
    let both = unmap(address + STEP as u64 / 2, STEP);
    assert_eq!(both, INVALID_VALUE, "half of two mappings");
    assert_eq!(unmap(address, STEP), OK);
    assert_eq!(unmap(address, 2 * STEP), INVALID_VALUE, "half of it mapped");
    assert_eq!(set(address, 4), INVALID_VALUE);
    assert_eq!(set(second, 4), OK);
    assert_eq!(client.sim.live_objects().physical_allocations, 1);
    assert_eq!(unmap(second, STEP), OK);
    assert_eq!(unmap(second, STEP), OK, "nothing, of what is reserved");
    assert_eq!(unmap(second, 4 * STEP), INVALID_VALUE, "not reserved");
    assert_eq!(before, free());
    assert_eq!(client.sim.live_objects().reservations, 1);
    ok!(client, cuMemAddressFree(address, 3 * STEP));
    prop.location.type_ = CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_HOST;
    let code = call!(client, cuMemCreate(&mut handle, STEP, &prop, 0));
    assert_eq!(code, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    client.finish();
}

#[test]
fn ids_flags_and_peers() {
    let client = Client::new("2xh200@13.0");
    let (mut a, mut b, mut flags) = (0, 0, 1);
    ok!(client, cuCtxGetFlags(&mut flags));
    ok!(client, cuCtxGetId(ptr::null_mut(), &mut a));
    ok!(client, cuCtxGetId(client.primary, &mut b));
    assert_eq!((a, flags), (b, 0));
    let group = client.split(&client.device_sms(), 1, 0, 16).unwrap().groups;
    let green = client.green(&group).unwrap();
    ok!(client, cuCtxGetId(client.context(green), &mut b));
    assert_ne!(a, b);
    let stream = client.stream(green);
    ok!(client, cuStreamGetId(stream, &mut a));
    ok!(client, cuStreamGetId(ptr::null_mut(), &mut b));
    assert_ne!(a, b);
    let mut context = ptr::null_mut();
    ok!(client, cuStreamGetCtx(stream, &mut context));
    assert_eq!(context, client.context(green));
    let event = {
        let mut event = ptr::null_mut();
        ok!(client, cuEventCreate(&mut event, 0));
        event
    };
    ok!(client, cuCtxRecordEvent(client.primary, event));
    ok!(client, cuCtxWaitEvent(context, event));
    ok!(client, cuCtxRecordEvent(context, event));
    ok!(client, cuCtxWaitEvent(client.primary, event));
    ok!(client, cuStreamSynchronize(stream));
    ok!(client, cuEventDestroy_v2(event));
    ok!(client, cuStreamDestroy_v2(stream));
    assert_eq!(client.destroy(green), OK);
    let mut can = 1;
    ok!(client, cuDeviceCanAccessPeer(&mut can, 0, 1));
    assert_eq!(can, 0);
    let mut other = ptr::null_mut();
    ok!(client, cuDevicePrimaryCtxRetain(&mut other, 1));
    let unsupported = CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    assert_eq!(call!(client, cuCtxEnablePeerAccess(other, 0)), unsupported);
    ok!(client, cuDevicePrimaryCtxRelease_v2(1));
    client.finish();
}

//! Device memory, pinned memory and pools.

use std::{ffi::c_void, ptr};

use crate::client::*;
use cuda_green_sys::*;

#[test]
fn memory_is_finite_and_a_green_context_costs_five_mebibytes() {
    let client = Client::new("h200@13.0");
    let api = &client.api;
    let free = || {
        let (mut free, mut total) = (0, 0);
        let code = unsafe { api.cuMemGetInfo_v2(&mut free, &mut total) };
        assert_eq!(code.unwrap(), OK);
        (free, total)
    };
    let (before, total) = free();
    assert_eq!(before, total);
    let green = client.green(&[client.device_sms()]).unwrap();
    let taken = before - free().0;
    assert_eq!(taken >> 20, 5);
    assert_eq!(client.alloc(0).err(), Some(INVALID_VALUE));
    let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    assert_eq!(client.alloc(total).err(), Some(full));
    assert_eq!(client.alloc(usize::MAX).err(), Some(full));
    let address = client.alloc(8 << 30).unwrap();
    assert_eq!(client.destroy(green), OK);
    let mut bytes = *b"green";
    unsafe {
        let far = address + (7 << 30);
        let code = api.cuMemcpyHtoD_v2(far, bytes.as_ptr().cast(), 5);
        assert_eq!(code.unwrap(), OK);
        let code = api.cuMemsetD8Async(far + 1, b'.', 3, ptr::null_mut());
        assert_eq!(code.unwrap(), OK);
        let code = api.cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), far, 5);
        assert_eq!(code.unwrap(), OK);
        assert_eq!(&bytes, b"g...n");
        let end = address + (8 << 30) - 4;
        let code = api.cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), end, 5);
        assert_eq!(code.unwrap(), INVALID_VALUE);
        assert_eq!(api.cuMemFree_v2(address + 1).unwrap(), INVALID_VALUE);
        assert_eq!(api.cuMemFree_v2(address).unwrap(), OK);
        assert_eq!(api.cuMemFree_v2(address).unwrap(), INVALID_VALUE);
    }
    // A green context's memory stays taken after its end, for the next green context.
    assert_eq!(free().0, before - taken);
    let green = client.green(&[client.device_sms()]).unwrap();
    assert_eq!(free().0, before - taken);
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

#[test]
fn pinned_memory_is_host_memory() {
    let client = Client::new("h200@13.0");
    let api = &client.api;
    let mut pointer: *mut c_void = ptr::null_mut();
    let address = client.alloc(4).unwrap();
    unsafe {
        assert_eq!(api.cuMemHostAlloc(&mut pointer, 4096, 1).unwrap(), OK);
        pointer.cast::<u32>().write(7);
        let stream = ptr::null_mut();
        let code = api.cuMemcpyHtoDAsync_v2(address, pointer, 4, stream);
        assert_eq!(code.unwrap(), OK);
        let code = api.cuMemcpyDtoHAsync_v2(pointer.byte_add(8), address, 4, stream);
        assert_eq!(code.unwrap(), OK);
        assert_eq!(pointer.byte_add(8).cast::<u32>().read(), 7);
        assert_eq!(client.sim.live_objects().host_allocations, 1);
        assert_eq!(api.cuMemFreeHost(pointer).unwrap(), OK);
        assert_eq!(api.cuMemFreeHost(pointer).unwrap(), INVALID_VALUE);
        assert_eq!(api.cuMemFree_v2(address).unwrap(), OK);
    }
    client.finish();
}

#[test]
fn pools_have_limits_and_marks() {
    const MIB: usize = 1 << 20;
    let client = Client::new("h200@13.0");
    let api = &client.api;
    let pool = pool(&client, 33 * MIB);
    let stream = ptr::null_mut();
    let attribute = |attribute| {
        let mut value = 0_u64;
        let to = (&raw mut value).cast();
        let code = unsafe { api.cuMemPoolGetAttribute(pool, attribute, to) };
        assert_eq!(code.unwrap(), OK);
        value
    };
    let mut addresses = [0; 3];
    unsafe {
        for address in &mut addresses[..2] {
            let code = api.cuMemAllocFromPoolAsync(address, 32 * MIB, pool, stream);
            assert_eq!(code.unwrap(), OK);
        }
        let code = api.cuMemAllocFromPoolAsync(&mut addresses[2], 1, pool, stream);
        assert_eq!(code.unwrap(), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let code = api.cuMemAllocFromPoolAsync(&mut addresses[2], 0, pool, stream);
        assert_eq!(code.unwrap(), OK);
        type A = CUmemPool_attribute;
        assert_eq!(attribute(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 64 << 20);
        for address in addresses {
            assert_eq!(api.cuMemFreeAsync(address, stream).unwrap(), OK);
        }
        assert_eq!(attribute(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
        assert_eq!(attribute(A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), 64 << 20);
        assert_eq!(attribute(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 64 << 20);
        assert_eq!(api.cuStreamSynchronize(stream).unwrap(), OK);
        assert_eq!(attribute(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 0);
        assert_eq!(api.cuMemPoolDestroy(pool).unwrap(), OK);
        assert_eq!(api.cuMemPoolDestroy(pool).unwrap(), INVALID_VALUE);
    }
    client.finish();
}

//! Default pools, registered host memory, what is known of pointers, and virtual memory.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ffi::c_void,
    ptr,
};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("pools/default", default_pools),
    Case::new("memory/registered", registered),
    Case::new("memory/pointers", pointers),
    Case::new("memory/virtual", virtual_memory),
];

const STEP: usize = 2 << 20;

fn props(gpu: &Gpu<'_>, max: usize) -> CUmemPoolProps {
    let mut props = CUmemPoolProps {
        allocType: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        maxSize: max,
        ..CUmemPoolProps::default()
    };
    props.location = device(gpu);
    props
}

fn device(gpu: &Gpu<'_>) -> CUmemLocation {
    let mut location = CUmemLocation {
        type_: CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE,
        ..CUmemLocation::default()
    };
    location.__bindgen_anon_1.id = gpu.device;
    location
}

fn default_pools(gpu: &Gpu<'_>, seen: &mut Seen) {
    let (mut default, mut current) = (ptr::null_mut(), ptr::null_mut());
    let code = call!(gpu, cuDeviceGetDefaultMemPool(&mut default, gpu.device));
    seen.code("default", code);
    let code = call!(gpu, cuDeviceGetMemPool(&mut current, gpu.device));
    seen.code("current", code);
    seen.note("the default is current", default == current);
    for attribute in 1..=4 {
        let mut value = [0_u64; 2];
        let to = value.as_mut_ptr().cast();
        let attribute = CUmemPool_attribute_enum(attribute);
        let code = call!(gpu, cuMemPoolGetAttribute(default, attribute, to));
        let what = format!("{} {}", say(code), value[0]);
        seen.note(format!("attribute {} of the default", attribute.0), what);
    }
    let code = call!(gpu, cuDeviceGetDefaultMemPool(&mut current, 1000));
    seen.code("default of no device", code);
    let code = call!(gpu, cuDeviceGetDefaultMemPool(ptr::null_mut(), gpu.device));
    seen.code("default to nowhere", code);
    let mut own = ptr::null_mut();
    must(call!(gpu, cuMemPoolCreate(&mut own, &props(gpu, 32 << 20))));
    seen.code(
        "set one's own",
        call!(gpu, cuDeviceSetMemPool(gpu.device, own)),
    );
    must(call!(gpu, cuDeviceGetMemPool(&mut current, gpu.device)));
    seen.note("it is current", current == own);
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    let mut take = |name: &str, bytes| {
        let mut address = 0;
        let code = call!(gpu, cuMemAllocAsync(&mut address, bytes, stream));
        seen.code(name, code);
        if code == OK && address != 0 {
            must(call!(gpu, cuMemFreeAsync(address, stream)));
        }
        must(call!(gpu, cuStreamSynchronize(stream)));
    };
    take("within its limit", 1 << 20);
    take("beyond its limit", 64 << 20);
    take("nothing of it", 0);
    seen.code("destroy the current", call!(gpu, cuMemPoolDestroy(own)));
    must(call!(gpu, cuDeviceGetMemPool(&mut current, gpu.device)));
    seen.note("the default is current again", current == default);
    let mut address = 0;
    let code = call!(gpu, cuMemAllocAsync(&mut address, 64 << 20, stream));
    seen.code("from the default", code);
    must(call!(gpu, cuMemFreeAsync(address, stream)));
    must(call!(gpu, cuStreamSynchronize(stream)));
    seen.code(
        "set the default",
        call!(gpu, cuDeviceSetMemPool(gpu.device, default)),
    );
    let mut access = CUmemAccessDesc {
        location: device(gpu),
        flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    let mut own = ptr::null_mut();
    must(call!(gpu, cuMemPoolCreate(&mut own, &props(gpu, 0))));
    for flags in [0, 1, 3] {
        access.flags = CUmemAccess_flags_enum(flags);
        let code = call!(gpu, cuMemPoolSetAccess(own, &access, 1));
        seen.code(format!("access {flags} of its own device"), code);
    }
    access.location.__bindgen_anon_1.id = 1000;
    let code = call!(gpu, cuMemPoolSetAccess(own, &access, 1));
    seen.code("access of no device", code);
    must(call!(gpu, cuMemPoolDestroy(own)));
    seen.code("destroy the default", call!(gpu, cuMemPoolDestroy(default)));
    gpu.close(stream);
    gpu.destroy(green);
}

fn registered(gpu: &Gpu<'_>, seen: &mut Seen) {
    let layout = Layout::from_size_align(16 << 10, 4096).unwrap();
    let own = unsafe { alloc_zeroed(layout) }.cast::<c_void>();
    let register = |pointer: *mut c_void, bytes, flags| {
        let code = call!(gpu, cuMemHostRegister_v2(pointer, bytes, flags));
        (code, pointer)
    };
    for flags in [0, 1, 2, 3, 16] {
        let (code, pointer) = register(own, 4096, flags);
        seen.code(format!("register with flags {flags}"), code);
        if code == OK {
            must(call!(gpu, cuMemHostUnregister(pointer)));
        }
    }
    for (name, offset, bytes) in [("nothing", 0, 0), ("not at a page", 100, 1000)] {
        let (code, pointer) = register(own.wrapping_byte_add(offset), bytes, 0);
        seen.code(format!("register {name}"), code);
        if code == OK {
            must(call!(gpu, cuMemHostUnregister(pointer)));
        }
    }
    must(register(own, 8192, 0).0);
    for (name, offset, bytes) in [
        ("the same", 0, 8192),
        ("part of it", 4096, 4096),
        ("over its end", 4096, 8192),
        ("beside it", 8192, 4096),
    ] {
        let (code, pointer) = register(own.wrapping_byte_add(offset), bytes, 0);
        seen.code(format!("register {name}"), code);
        if code == OK {
            must(call!(gpu, cuMemHostUnregister(pointer)));
        }
    }
    let mut address = 0;
    let code = call!(gpu, cuMemHostGetDevicePointer_v2(&mut address, own, 0));
    let same = address == own as u64;
    seen.note("its address", format!("{} {same}", say(code)));
    let code = call!(gpu, cuMemHostGetDevicePointer_v2(&mut address, own, 1));
    seen.code("its address with flags 1", code);
    let stream = gpu.stream_here();
    let code = call!(gpu, cuMemsetD8Async(own as u64, 5, 4096, stream));
    seen.code("set it", code);
    must(call!(gpu, cuStreamSynchronize(stream)));
    seen.note("what is there", unsafe { own.cast::<u8>().read_volatile() });
    gpu.close(stream);
    let inner = call!(gpu, cuMemHostUnregister(own.wrapping_byte_add(4096)));
    seen.code("unregister from within", inner);
    seen.code("free it", call!(gpu, cuMemFreeHost(own)));
    seen.code("unregister", call!(gpu, cuMemHostUnregister(own)));
    seen.code("unregister twice", call!(gpu, cuMemHostUnregister(own)));
    seen.code("register null", register(ptr::null_mut(), 4096, 0).0);
    seen.code(
        "unregister null",
        call!(gpu, cuMemHostUnregister(ptr::null_mut())),
    );
    let mut pinned = ptr::null_mut();
    must(call!(gpu, cuMemHostAlloc(&mut pinned, 4096, 0)));
    seen.code("register what is pinned", register(pinned, 4096, 0).0);
    seen.code(
        "unregister what is pinned",
        call!(gpu, cuMemHostUnregister(pinned)),
    );
    must(call!(gpu, cuMemFreeHost(pinned)));
    unsafe { dealloc(own.cast(), layout) };
}

fn pointers(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    let plain = gpu.alloc(4096).unwrap();
    let mut pooled = 0;
    must(call!(gpu, cuMemAllocAsync(&mut pooled, 4096, stream)));
    must(call!(gpu, cuStreamSynchronize(stream)));
    let mut pinned = ptr::null_mut();
    must(call!(gpu, cuMemHostAlloc(&mut pinned, 4096, 0)));
    let host = [0_u64; 8];
    let places = [
        ("device", plain),
        ("pool", pooled),
        ("pinned", pinned as u64),
        ("host", host.as_ptr() as u64),
        ("nowhere", 0x1234),
    ];
    use CUpointer_attribute as A;
    for (name, base) in places {
        for (what, attribute) in [
            ("context", A::CU_POINTER_ATTRIBUTE_CONTEXT),
            ("kind", A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE),
            ("device pointer", A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER),
            ("host pointer", A::CU_POINTER_ATTRIBUTE_HOST_POINTER),
            ("managed", A::CU_POINTER_ATTRIBUTE_IS_MANAGED),
            ("device", A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL),
            ("start", A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR),
            ("size", A::CU_POINTER_ATTRIBUTE_RANGE_SIZE),
            ("mapped", A::CU_POINTER_ATTRIBUTE_MAPPED),
            ("pool", A::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE),
        ] {
            let mut value = [0_u64; 2];
            let to = value.as_mut_ptr().cast();
            let address = base + 8;
            let code = call!(gpu, cuPointerGetAttribute(to, attribute, address));
            let value = value[0];
            let text = match what {
                _ if code != OK => say(code),
                "context" if value == gpu.primary as u64 => "primary".to_owned(),
                "device pointer" | "host pointer" if value == address => "itself".to_owned(),
                "start" if value == base => "its start".to_owned(),
                "pool" | "context" => (if value == 0 { "none" } else { "some" }).to_owned(),
                "start" | "device pointer" | "host pointer" => "another".to_owned(),
                _ => value.to_string(),
            };
            seen.note(format!("{name}: {what}"), text);
        }
    }
    for attribute in [0, 1000] {
        let mut value = [0_u64; 2];
        let to = value.as_mut_ptr().cast();
        let attribute = CUpointer_attribute_enum(attribute);
        let code = call!(gpu, cuPointerGetAttribute(to, attribute, plain));
        seen.code(format!("attribute {}", attribute.0), code);
    }
    must(call!(gpu, cuMemFreeHost(pinned)));
    must(call!(gpu, cuMemFreeAsync(pooled, stream)));
    must(call!(gpu, cuStreamSynchronize(stream)));
    must(call!(gpu, cuMemFree_v2(plain)));
    gpu.close(stream);
}

fn virtual_memory(gpu: &Gpu<'_>, seen: &mut Seen) {
    let mut prop = CUmemAllocationProp {
        type_: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        location: device(gpu),
        ..CUmemAllocationProp::default()
    };
    for option in [0, 1, 2] {
        let mut step = 0;
        let which = CUmemAllocationGranularity_flags_enum(option);
        let code = call!(gpu, cuMemGetAllocationGranularity(&mut step, &prop, which));
        seen.note(
            format!("granularity {option}"),
            format!("{} {step}", say(code)),
        );
    }
    let mut handle = 0;
    for bytes in [0, 1, STEP / 2, STEP + 1, STEP, 3 * STEP] {
        let code = call!(gpu, cuMemCreate(&mut handle, bytes, &prop, 0));
        seen.code(format!("create {bytes}"), code);
        if code == OK {
            must(call!(gpu, cuMemRelease(handle)));
        }
    }
    let code = call!(gpu, cuMemCreate(&mut handle, STEP, &prop, 1));
    seen.code("create with flags 1", code);
    for kind in [0, 2, 4711] {
        prop.type_ = CUmemAllocationType_enum(kind);
        let code = call!(gpu, cuMemCreate(&mut handle, STEP, &prop, 0));
        seen.code(format!("create of type {kind}"), code);
        if code == OK {
            must(call!(gpu, cuMemRelease(handle)));
        }
    }
    prop.type_ = CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED;
    let mut address = 0;
    for (bytes, alignment, flags) in [
        (0, 0, 0),
        (1, 0, 0),
        (STEP, 3, 0),
        (STEP, STEP, 0),
        (STEP, 8 * STEP, 0),
        (STEP, 0, 1),
    ] {
        let name = format!("reserve {bytes} aligned to {alignment} flags {flags}");
        let code = call!(
            gpu,
            cuMemAddressReserve(&mut address, bytes, alignment, 0, flags)
        );
        seen.code(name.clone(), code);
        if code == OK {
            let multiple = (alignment.max(1)) as u64;
            seen.note(format!("{name}: it is"), address.is_multiple_of(multiple));
            must(call!(gpu, cuMemAddressFree(address, bytes)));
        }
    }
    must(call!(
        gpu,
        cuMemAddressReserve(&mut address, 4 * STEP, 0, 0, 0)
    ));
    must(call!(gpu, cuMemCreate(&mut handle, STEP, &prop, 0)));
    let step = STEP as u64;
    let map = |at: u64, bytes: usize, offset: usize, flags: u64| {
        call!(gpu, cuMemMap(at, bytes, offset, handle, flags))
    };
    seen.code("map with flags 1", map(address, STEP, 0, 1));
    seen.code("map at an offset", map(address, STEP, STEP, 0));
    seen.code("map too much", map(address, 2 * STEP, 0, 0));
    seen.code("map half a step", map(address, STEP / 2, 0, 0));
    seen.code("map off the steps", map(address + 4096, STEP, 0, 0));
    seen.code("map", map(address, STEP, 0, 0));
    seen.code("map over it", map(address, STEP, 0, 0));
    seen.code("map the same elsewhere", map(address + step, STEP, 0, 0));
    let mut access = CUmemAccessDesc {
        location: device(gpu),
        flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    let set =
        |access: &CUmemAccessDesc, at, bytes, n| call!(gpu, cuMemSetAccess(at, bytes, access, n));
    seen.code(
        "access to what is not mapped",
        set(&access, address + 2 * step, STEP, 1),
    );
    seen.code(
        "access to more than is mapped",
        set(&access, address, 4 * STEP, 1),
    );
    seen.code("access of nobody", set(&access, address, STEP, 0));
    seen.code("access to both", set(&access, address, 2 * STEP, 1));
    access.location.__bindgen_anon_1.id = 1000;
    seen.code("access of no device", set(&access, address, STEP, 1));
    let stream = gpu.stream_here();
    let code = call!(gpu, cuMemsetD8Async(address + step - 2, 6, 4, stream));
    seen.code("set over the border", code);
    must(call!(gpu, cuStreamSynchronize(stream)));
    let mut bytes = [0_u8; 4];
    let to = bytes.as_mut_ptr().cast();
    seen.code("read", call!(gpu, cuMemcpyDtoH_v2(to, address, 4)));
    seen.note("what is there", &bytes[..2]);
    gpu.close(stream);
    seen.code(
        "release while it is mapped",
        call!(gpu, cuMemRelease(handle)),
    );
    seen.code(
        "give addresses back too early",
        call!(gpu, cuMemAddressFree(address, 4 * STEP)),
    );
    seen.code("unmap half", call!(gpu, cuMemUnmap(address, STEP / 2)));
    seen.code(
        "unmap both at once",
        call!(gpu, cuMemUnmap(address, 2 * STEP)),
    );
    seen.code("unmap twice", call!(gpu, cuMemUnmap(address, STEP)));
    seen.code(
        "give a part of the addresses back",
        call!(gpu, cuMemAddressFree(address, STEP)),
    );
    seen.code(
        "give them back",
        call!(gpu, cuMemAddressFree(address, 4 * STEP)),
    );
}

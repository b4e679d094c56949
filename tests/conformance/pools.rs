//! Pools: properties, attributes, limits, and what becomes of what is freed.

use std::ptr;

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("pools/properties", properties),
    Case::new("pools/attributes", attributes),
    Case::new("pools/limits", limits).since(12, 2),
    Case::new("pools/accounting", accounting),
    Case::new("pools/frees", frees),
    Case::new("pools/destroyed", destroyed).rough(),
];

const MIB: usize = 1 << 20;

fn props(gpu: &Gpu<'_>, max: usize) -> CUmemPoolProps {
    let mut props = CUmemPoolProps {
        allocType: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        maxSize: max,
        ..CUmemPoolProps::default()
    };
    props.location.type_ = CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE;
    props.location.__bindgen_anon_1.id = gpu.device;
    props
}

pub fn pool(gpu: &Gpu<'_>, max: usize) -> Result<CUmemoryPool, CUresult> {
    let mut pool = ptr::null_mut();
    call!(gpu, cuMemPoolCreate(&mut pool, &props(gpu, max))).ok()?;
    Ok(pool)
}

fn properties(gpu: &Gpu<'_>, seen: &mut Seen) {
    let mut try_it = |name: String, change: &dyn Fn(&mut CUmemPoolProps)| {
        let mut props = props(gpu, 0);
        change(&mut props);
        let mut pool = ptr::null_mut();
        let code = call!(gpu, cuMemPoolCreate(&mut pool, &props));
        seen.code(name, code);
        if code == OK {
            must(call!(gpu, cuMemPoolDestroy(pool)));
        }
    };
    try_it("plain".to_owned(), &|_| ());
    for kind in [0, 3, 4711] {
        try_it(format!("allocation type {kind}"), &|props| {
            props.allocType = CUmemAllocationType_enum(kind);
        });
    }
    for kind in [0, 5, 4711] {
        try_it(format!("location type {kind}"), &|props| {
            props.location.type_ = CUmemLocationType_enum(kind);
        });
    }
    for device in [-1, 1000] {
        try_it(format!("device {device}"), &|props| {
            props.location.__bindgen_anon_1.id = device;
        });
    }
    for handles in [0x10, 0x4711] {
        try_it(format!("handle types {handles:#x}"), &|props| {
            props.handleTypes = CUmemAllocationHandleType_enum(handles);
        });
    }
    try_it("a reserved byte".to_owned(), &|props| {
        props.reserved[20] = 1
    });
}

fn get(gpu: &Gpu<'_>, pool: CUmemoryPool, attribute: u32) -> (CUresult, u64) {
    let mut value = [0_u64; 2];
    let to = value.as_mut_ptr().cast();
    let code = call!(
        gpu,
        cuMemPoolGetAttribute(pool, CUmemPool_attribute_enum(attribute), to)
    );
    (code, value[0])
}

fn set(gpu: &Gpu<'_>, pool: CUmemoryPool, attribute: u32, value: u64) -> CUresult {
    let mut value = [value, 0];
    let from = value.as_mut_ptr().cast();
    call!(
        gpu,
        cuMemPoolSetAttribute(pool, CUmemPool_attribute_enum(attribute), from)
    )
}

fn attributes(gpu: &Gpu<'_>, seen: &mut Seen) {
    let pool = pool(gpu, 0).unwrap();
    for attribute in 0..=8 {
        let (code, value) = get(gpu, pool, attribute);
        seen.note(
            format!("{attribute} at first"),
            format!("{} {value}", say(code)),
        );
    }
    for attribute in 0..=8 {
        for value in [0, 1, 2, 64 << 20] {
            let code = set(gpu, pool, attribute, value);
            seen.code(format!("{attribute} set to {value}"), code);
            let (code, value_then) = get(gpu, pool, attribute);
            seen.note(
                format!("{attribute} after {value}"),
                format!("{} {value_then}", say(code)),
            );
        }
    }
    must(call!(gpu, cuMemPoolDestroy(pool)));
}

/// How much comes out of a pool in blocks of a size, before it says no, up to 400 MiB.
fn limits(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    for max in [
        1,
        MIB,
        2 * MIB,
        16 * MIB,
        31 * MIB,
        32 * MIB,
        33 * MIB,
        64 * MIB,
        100 * MIB,
        256 * MIB,
    ] {
        for block in [MIB, 3 * MIB, 8 * MIB, 40 * MIB] {
            let pool = match pool(gpu, max) {
                Ok(pool) => pool,
                Err(code) => {
                    seen.code(format!("limit {max} block {block}"), code);
                    continue;
                }
            };
            must(set(gpu, pool, 4, u64::MAX));
            let mut addresses = Vec::new();
            let mut code = OK;
            while addresses.len() * block < 400 * MIB {
                let mut address = 0;
                code = call!(
                    gpu,
                    cuMemAllocFromPoolAsync(&mut address, block, pool, stream)
                );
                if code != OK {
                    break;
                }
                addresses.push(address);
            }
            seen.note(
                format!("limit {max} in blocks of {} MiB", block / MIB),
                format!("{} after {} MiB", say(code), addresses.len() * block / MIB),
            );
            for address in addresses {
                must(call!(gpu, cuMemFreeAsync(address, stream)));
            }
            must(call!(gpu, cuStreamSynchronize(stream)));
            must(call!(gpu, cuMemPoolDestroy(pool)));
        }
    }
    gpu.close(stream);
}

/// What a pool says is used and reserved, step by step.
fn accounting(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    for threshold in [0, u64::MAX] {
        let pool = pool(gpu, 0).unwrap();
        must(set(gpu, pool, 4, threshold));
        let name = if threshold == 0 { "let go" } else { "kept" };
        let mut state = |what: &str| {
            let values = [5, 6, 7, 8].map(|attribute| get(gpu, pool, attribute).1);
            seen.note(
                format!("{name}: {what}"),
                format!(
                    "reserved {} high {}, used {} high {}",
                    values[0], values[1], values[2], values[3]
                ),
            );
        };
        state("new");
        let mut addresses = Vec::new();
        for bytes in [1, 511, 513, 3 * MIB, 40 * MIB] {
            let mut address = 0;
            must(call!(
                gpu,
                cuMemAllocFromPoolAsync(&mut address, bytes, pool, stream)
            ));
            state(&format!("with {bytes} more"));
            addresses.push(address);
        }
        for address in addresses {
            must(call!(gpu, cuMemFreeAsync(address, stream)));
        }
        must(call!(gpu, cuStreamSynchronize(stream)));
        state("all freed");
        must(set(gpu, pool, 6, 0));
        must(set(gpu, pool, 8, 0));
        state("marks set back");
        must(call!(gpu, cuMemPoolTrimTo(pool, 40 * MIB)));
        state("trimmed to 40 MiB");
        must(call!(gpu, cuMemPoolTrimTo(pool, 0)));
        state("trimmed to nothing");
        must(call!(gpu, cuMemPoolDestroy(pool)));
    }
    gpu.close(stream);
}

fn frees(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    let pool = pool(gpu, 0).unwrap();
    let take = |bytes| {
        let mut address = 4711;
        let code = call!(
            gpu,
            cuMemAllocFromPoolAsync(&mut address, bytes, pool, stream)
        );
        (code, address)
    };
    let (code, address) = take(0);
    seen.note("0 bytes", format!("{} {}", say(code), address == 0));
    seen.code(
        "free what 0 bytes gave",
        call!(gpu, cuMemFreeAsync(address, stream)),
    );
    let (code, _) = take(usize::MAX / 2);
    seen.code("far too much", code);
    let (_, address) = take(4096);
    seen.code("free in order", call!(gpu, cuMemFreeAsync(address, stream)));
    must(call!(gpu, cuStreamSynchronize(stream)));
    let (_, address) = take(4096);
    must(call!(gpu, cuStreamSynchronize(stream)));
    seen.code("free at once", call!(gpu, cuMemFree_v2(address)));
    let plain = gpu.alloc(4096).unwrap();
    let code = call!(gpu, cuMemFreeAsync(plain, stream));
    seen.code("free plain memory in order", code);
    must(call!(gpu, cuStreamSynchronize(stream)));
    if code != OK {
        must(call!(gpu, cuMemFree_v2(plain)));
    }
    seen.code("free null in order", call!(gpu, cuMemFreeAsync(0, stream)));
    seen.code(
        "free nonsense in order",
        call!(gpu, cuMemFreeAsync(0x1234, stream)),
    );
    let (_, address) = take(4096);
    seen.code(
        "free in the default stream",
        call!(gpu, cuMemFreeAsync(address, ptr::null_mut())),
    );
    must(call!(gpu, cuCtxSynchronize()));
    gpu.close(stream);
    must(call!(gpu, cuMemPoolDestroy(pool)));
}

fn destroyed(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    let pool = pool(gpu, 0).unwrap();
    let mut address = 0;
    must(call!(
        gpu,
        cuMemAllocFromPoolAsync(&mut address, 4096, pool, stream)
    ));
    seen.code("destroy in use", call!(gpu, cuMemPoolDestroy(pool)));
    let code = call!(gpu, cuMemsetD8Async(address, 1, 4096, stream));
    seen.code("use after destroy", code);
    seen.code("wait", call!(gpu, cuStreamSynchronize(stream)));
    seen.code(
        "free after destroy",
        call!(gpu, cuMemFreeAsync(address, stream)),
    );
    seen.code("wait again", call!(gpu, cuStreamSynchronize(stream)));
    seen.code("free twice", call!(gpu, cuMemFreeAsync(address, stream)));
    seen.code(
        "destroy null",
        call!(gpu, cuMemPoolDestroy(ptr::null_mut())),
    );
    let code = call!(gpu, cuMemPoolCreate(ptr::null_mut(), &props(gpu, 0)));
    seen.code("create to nowhere", code);
    let fresh = self::pool(gpu, 0).unwrap();
    let code = call!(
        gpu,
        cuMemAllocFromPoolAsync(ptr::null_mut(), 64, fresh, stream)
    );
    seen.code("allocate to nowhere", code);
    let code = call!(
        gpu,
        cuMemAllocFromPoolAsync(&mut address, 64, ptr::null_mut(), stream)
    );
    seen.code("allocate from null", code);
    must(call!(gpu, cuMemPoolDestroy(fresh)));
    seen.code("destroy twice", call!(gpu, cuMemPoolDestroy(fresh)));
}

//! Memory: allocations across contexts, copies, pinned memory.

use std::{ffi::c_void, ptr};

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, said, say},
    pools,
};

pub const CASES: &[Case] = &[
    Case::new("memory/allocations", allocations),
    Case::new("memory/across_contexts", across_contexts),
    Case::new("memory/pinned", pinned),
    Case::new("memory/wrong_copies", wrong_copies).rough(),
];

const MIB: usize = 1 << 20;

fn allocations(gpu: &Gpu<'_>, seen: &mut Seen) {
    let (mut free, mut total) = (0, 0);
    must(call!(gpu, cuMemGetInfo_v2(&mut free, &mut total)));
    for (name, bytes) in [
        ("0", 0),
        ("1", 1),
        ("4097", 4097),
        ("2 MiB", 2 * MIB),
        ("all there is", total),
        ("too much", usize::MAX),
        ("half the address space", usize::MAX / 2),
    ] {
        let address = gpu.alloc(bytes);
        seen.note(format!("{name} bytes"), said(&address));
        if let Ok(address) = address {
            seen.note(format!("{name} bytes aligned"), address % 512 == 0);
            if bytes > 1 {
                let inside = call!(gpu, cuMemFree_v2(address + 1));
                seen.code(format!("free inside {name} bytes"), inside);
            }
            seen.code(
                format!("free {name} bytes"),
                call!(gpu, cuMemFree_v2(address)),
            );
            seen.code(
                format!("free {name} bytes twice"),
                call!(gpu, cuMemFree_v2(address)),
            );
        }
    }
    seen.code("free null", call!(gpu, cuMemFree_v2(0)));
    seen.code("free nonsense", call!(gpu, cuMemFree_v2(0x1234)));
    let code = call!(gpu, cuMemGetInfo_v2(&mut free, &mut total));
    seen.note("total MiB", format!("{} {}", say(code), total >> 20));
}

/// Made with green context A current, used from B, from the primary context, and after A is gone.
fn across_contexts(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [a, b] = gpu.quarters();
    let address = gpu.within(gpu.context(a).unwrap(), || gpu.alloc(4096).unwrap());
    let (in_a, in_b) = (gpu.stream(a), gpu.stream(b));
    let mut host = [0_u8; 4];
    let to = host.as_mut_ptr().cast::<c_void>();
    seen.code("set in A", call!(gpu, cuMemsetD8Async(address, 1, 4, in_a)));
    must(call!(gpu, cuStreamSynchronize(in_a)));
    seen.code(
        "set in B",
        call!(gpu, cuMemsetD8Async(address + 1, 2, 1, in_b)),
    );
    must(call!(gpu, cuStreamSynchronize(in_b)));
    gpu.close(in_a);
    gpu.destroy(a);
    let code = call!(gpu, cuMemsetD8Async(address + 2, 3, 1, in_b));
    seen.code("set in B after A", code);
    must(call!(gpu, cuStreamSynchronize(in_b)));
    seen.code("read", call!(gpu, cuMemcpyDtoH_v2(to, address, 4)));
    seen.note("bytes", host);
    seen.code("free after A", call!(gpu, cuMemFree_v2(address)));
    // A pool's memory too.
    let pool = pools::pool(gpu, 0).unwrap();
    let mut address = 0;
    let code = call!(gpu, cuMemAllocFromPoolAsync(&mut address, 64, pool, in_b));
    seen.code("from a pool in B", code);
    let plain = gpu.stream_here();
    must(call!(gpu, cuStreamSynchronize(in_b)));
    gpu.close(in_b);
    gpu.destroy(b);
    seen.code(
        "set after B",
        call!(gpu, cuMemsetD8Async(address, 1, 64, plain)),
    );
    seen.code("free elsewhere", call!(gpu, cuMemFreeAsync(address, plain)));
    seen.code("wait", call!(gpu, cuStreamSynchronize(plain)));
    gpu.close(plain);
    must(call!(gpu, cuMemPoolDestroy(pool)));
}

fn pinned(gpu: &Gpu<'_>, seen: &mut Seen) {
    for flags in [0, 1, 2, 3, 4, 7, 8, 16] {
        let mut pointer = ptr::null_mut();
        let code = call!(gpu, cuMemHostAlloc(&mut pointer, 4096, flags));
        seen.code(format!("flags {flags}"), code);
        if code == OK {
            let aligned = (pointer as usize).is_multiple_of(4096);
            seen.note(format!("flags {flags} aligned"), aligned);
            must(call!(gpu, cuMemFreeHost(pointer)));
        }
    }
    let mut pointer = ptr::null_mut();
    let code = call!(gpu, cuMemHostAlloc(&mut pointer, 0, 0));
    seen.note("0 bytes", format!("{} {}", say(code), pointer.is_null()));
    if !pointer.is_null() {
        let _ = call!(gpu, cuMemFreeHost(pointer));
    }
    seen.code("free null", call!(gpu, cuMemFreeHost(ptr::null_mut())));
    must(call!(gpu, cuMemHostAlloc(&mut pointer, 4096, 0)));
    seen.code("free", call!(gpu, cuMemFreeHost(pointer)));
    seen.code("free twice", call!(gpu, cuMemFreeHost(pointer)));
    let code = call!(gpu, cuMemHostAlloc(&mut pointer, usize::MAX / 2, 0));
    seen.code("far too much", code);
}

fn wrong_copies(gpu: &Gpu<'_>, seen: &mut Seen) {
    let address = gpu.alloc(4096).unwrap();
    let stream = gpu.stream_here();
    let mut host = vec![0_u8; 8 << 20];
    let data = host.as_mut_ptr().cast::<c_void>();
    let nothing = ptr::null_mut();
    seen.code("0 bytes in", call!(gpu, cuMemcpyHtoD_v2(address, data, 0)));
    seen.code(
        "0 bytes from null",
        call!(gpu, cuMemcpyHtoD_v2(address, nothing, 0)),
    );
    seen.code(
        "0 bytes to nowhere",
        call!(gpu, cuMemcpyHtoD_v2(0, data, 0)),
    );
    seen.code("0 bytes out", call!(gpu, cuMemcpyDtoH_v2(data, address, 0)));
    seen.code(
        "set 0 bytes",
        call!(gpu, cuMemsetD8Async(address, 0, 0, stream)),
    );
    let code = call!(gpu, cuMemsetD8Async(0, 0, 0, stream));
    seen.code("set 0 bytes nowhere", code);
    seen.code("in to null", call!(gpu, cuMemcpyHtoD_v2(0, data, 64)));
    seen.code("out of null", call!(gpu, cuMemcpyDtoH_v2(data, 0, 64)));
    seen.code("set null", call!(gpu, cuMemsetD8Async(0, 0, 64, stream)));
    seen.code(
        "in to nonsense",
        call!(gpu, cuMemcpyHtoD_v2(0x1234, data, 64)),
    );
    let code = call!(gpu, cuMemcpyHtoD_v2(address, data, 8 << 20));
    seen.code("in past the end", code);
    let code = call!(gpu, cuMemcpyDtoH_v2(data, address, 8 << 20));
    seen.code("out past the end", code);
    seen.code(
        "in from null",
        call!(gpu, cuMemcpyHtoD_v2(address, nothing, 64)),
    );
    seen.code(
        "out to null",
        call!(gpu, cuMemcpyDtoH_v2(nothing, address, 64)),
    );
    let (mut free, mut total) = (0_usize, 0_usize);
    let code = call!(gpu, cuMemGetInfo_v2(ptr::null_mut(), &mut total));
    seen.code("free to nowhere", code);
    let code = call!(gpu, cuMemGetInfo_v2(&mut free, ptr::null_mut()));
    seen.code("total to nowhere", code);
    seen.code(
        "alloc to nowhere",
        call!(gpu, cuMemAlloc_v2(ptr::null_mut(), 64)),
    );
    let code = call!(gpu, cuMemHostAlloc(ptr::null_mut(), 64, 0));
    seen.code("pinned to nowhere", code);
    seen.code("still well", call!(gpu, cuCtxSynchronize()));
}

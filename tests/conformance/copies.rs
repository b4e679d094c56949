//! When a copy of host memory is done: of pageable memory once the default stream was waited for, of pinned memory at
//! the call's return.

use std::{ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, call, must},
};

pub const CASES: &[Case] = &[
    Case::new("copies/waited_for", waited_for),
    Case::new("copies/pinned", pinned),
];

const SIZES: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 2 << 20];
/// Bytes of the copies in another stream meanwhile.
const BESIDE: usize = 4 << 20;
const ROUNDS: u8 = 8;

/// Pinned memory.
struct Pinned<'a>(&'a Gpu<'a>, *mut c_void, usize);

impl<'a> Pinned<'a> {
    fn new(gpu: &'a Gpu<'a>, len: usize) -> Self {
        let mut pointer = ptr::null_mut();
        must(call!(gpu, cuMemHostAlloc(&mut pointer, len, 0)));
        Self(gpu, pointer, len)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // The driver gave so many bytes, which nothing writes while they are looked at.
        unsafe { std::slice::from_raw_parts_mut(self.1.cast(), self.2) }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        let _ = call!(self.0, cuMemFreeHost(self.1));
    }
}

/// Whether a stream that waits for no other finds all bytes of a copy, again and again, beside copies in another.
fn found(gpu: &Gpu<'_>, len: usize, copy: &mut dyn FnMut(CUdeviceptr, u8)) -> bool {
    let (stream, other) = (gpu.stream_here(), gpu.stream_here());
    let (address, beside) = (gpu.alloc(len).unwrap(), gpu.alloc(BESIDE).unwrap());
    let mut to = Pinned::new(gpu, len);
    let mut load = Pinned::new(gpu, BESIDE);
    load.bytes().fill(1);
    let mut all = true;
    for round in 1..=ROUNDS {
        let code = call!(gpu, cuMemcpyHtoDAsync_v2(beside, load.1, load.2, other));
        must(code);
        copy(address, round);
        must(call!(gpu, cuMemcpyDtoHAsync_v2(to.1, address, len, stream)));
        must(call!(gpu, cuStreamSynchronize(stream)));
        all &= *to.bytes() == vec![round; len];
        must(call!(gpu, cuStreamSynchronize(other)));
    }
    drop((to, load));
    for address in [address, beside] {
        must(call!(gpu, cuMemFree_v2(address)));
    }
    for stream in [stream, other] {
        gpu.close(stream);
    }
    all
}

/// A copy of pageable memory, and then a wait of each kind.
fn waited_for(gpu: &Gpu<'_>, seen: &mut Seen) {
    type Wait<'a> = (&'a str, &'a dyn Fn() -> CUresult);
    let event = gpu.event(2);
    let waits: [Wait<'_>; 3] = [
        ("the default stream", &|| {
            call!(gpu, cuStreamSynchronize(ptr::null_mut()))
        }),
        ("the context", &|| call!(gpu, cuCtxSynchronize())),
        ("an event of the default stream", &|| {
            must(call!(gpu, cuEventRecord(event, ptr::null_mut())));
            call!(gpu, cuEventSynchronize(event))
        }),
    ];
    for len in SIZES {
        let mut from = vec![0; len];
        for (name, wait) in waits {
            let whole = found(gpu, len, &mut |address, byte| {
                from.fill(byte);
                let data = from.as_ptr().cast();
                must(call!(gpu, cuMemcpyHtoD_v2(address, data, len)));
                must(wait());
            });
            seen.note(format!("{len} bytes, after {name}"), whole);
        }
        // The host's memory is free for other uses at the call's return.
        let whole = found(gpu, len, &mut |address, byte| {
            from.fill(byte);
            let data = from.as_ptr().cast();
            must(call!(gpu, cuMemcpyHtoD_v2(address, data, len)));
            from.fill(0);
            must(call!(gpu, cuStreamSynchronize(ptr::null_mut())));
        });
        seen.note(format!("{len} bytes, overwritten at once"), whole);
        // Out of the device, a copy is done at its return.
        let address = gpu.alloc(len).unwrap();
        let mut all = true;
        for byte in 1..=ROUNDS {
            must(call!(
                gpu,
                cuMemsetD8Async(address, byte, len, ptr::null_mut())
            ));
            let to = from.as_mut_ptr().cast();
            must(call!(gpu, cuMemcpyDtoH_v2(to, address, len)));
            all &= from == vec![byte; len];
        }
        must(call!(gpu, cuMemFree_v2(address)));
        seen.note(format!("{len} bytes, out of the device"), all);
    }
    must(call!(gpu, cuEventDestroy_v2(event)));
}

/// A copy of pinned memory is done at the call's return, without a wait.
fn pinned(gpu: &Gpu<'_>, seen: &mut Seen) {
    for len in SIZES {
        let mut from = Pinned::new(gpu, len);
        let whole = found(gpu, len, &mut |address, byte| {
            from.bytes().fill(byte);
            must(call!(gpu, cuMemcpyHtoD_v2(address, from.1, len)));
        });
        seen.note(format!("{len} bytes"), whole);
        let overwritten = found(gpu, len, &mut |address, byte| {
            from.bytes().fill(byte);
            must(call!(gpu, cuMemcpyHtoD_v2(address, from.1, len)));
            from.bytes().fill(0);
        });
        seen.note(format!("{len} bytes, overwritten at once"), overwritten);
    }
}

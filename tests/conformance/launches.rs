//! Launches: shapes, and arguments in both forms.

use std::{ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, SmIdsArgs, call, count, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("launch/shapes", shapes),
    Case::new("launch/cooperative", cooperative),
    Case::new("launch/packed_arguments", packed_arguments),
    Case::new("launch/wrong_arguments", wrong_arguments).rough(),
];

/// One launch in all its dimensions.
fn launch(gpu: &Gpu<'_>, grid: [u32; 3], block: [u32; 3], shared: u32) -> CUresult {
    let mut args = SmIdsArgs::new(0, 0, 0);
    let none: CUstream = ptr::null_mut();
    let code = call!(
        gpu,
        cuLaunchKernel(
            gpu.sm_ids,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            shared,
            none,
            args.pointers().as_mut_ptr(),
            ptr::null_mut()
        )
    );
    must(call!(gpu, cuStreamSynchronize(none)));
    code
}

/// Launches whose blocks must all be on SMs at once: as many as there is room for, and one more.
fn cooperative(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let streams = [("primary", gpu.stream_here()), ("green", gpu.stream(green))];
    let sms = [count(&gpu.whole()), count(&gpu.resource(green))];
    let (mut threads_on_sm, mut blocks_on_sm) = (0, 0);
    use CUdevice_attribute_enum as A;
    for (value, attribute) in [
        (
            &mut threads_on_sm,
            A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        ),
        (
            &mut blocks_on_sm,
            A::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR,
        ),
    ] {
        must(call!(
            gpu,
            cuDeviceGetAttribute(value, attribute, gpu.device)
        ));
    }
    for ((name, stream), sms) in streams.into_iter().zip(sms) {
        for threads in [32, 64, 512] {
            let room = sms * (threads_on_sm as u32 / threads).min(blocks_on_sm as u32);
            for (what, blocks) in [("all", room), ("one more", room + 1), ("many", 8 * room)] {
                for on in [0, 1] {
                    let mut attribute = CUlaunchAttribute {
                        id: CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
                        ..Default::default()
                    };
                    attribute.value.cooperative = on;
                    let config = CUlaunchConfig {
                        gridDimX: blocks,
                        gridDimY: 1,
                        gridDimZ: 1,
                        blockDimX: threads,
                        blockDimY: 1,
                        blockDimZ: 1,
                        hStream: stream,
                        attrs: &mut attribute,
                        numAttrs: 1,
                        ..Default::default()
                    };
                    let mut args = SmIdsArgs::new(0, 0, 0);
                    let code = call!(
                        gpu,
                        cuLaunchKernelEx(
                            &config,
                            gpu.sm_ids,
                            args.pointers().as_mut_ptr(),
                            ptr::null_mut()
                        )
                    );
                    let name = format!("{name}, {what} of {threads} threads, cooperative {on}");
                    seen.code(name, code);
                    must(call!(gpu, cuStreamSynchronize(stream)));
                }
            }
        }
        gpu.close(stream);
    }
    gpu.destroy(green);
}

fn shapes(gpu: &Gpu<'_>, seen: &mut Seen) {
    for grid in [
        [0, 1, 1],
        [1, 0, 1],
        [1, 1, 0],
        [0x8000_0000, 1, 1],
        [u32::MAX, 1, 1],
        [1, 65_535, 1],
        [1, 65_536, 1],
        [1, 1, 65_535],
        [1, 1, 65_536],
    ] {
        seen.code(format!("grid {grid:?}"), launch(gpu, grid, [1; 3], 0));
    }
    for block in [
        [0, 1, 1],
        [1, 0, 1],
        [1, 1, 0],
        [1024, 1, 1],
        [1025, 1, 1],
        [1, 1024, 1],
        [1, 1025, 1],
        [1, 1, 64],
        [1, 1, 65],
        [32, 32, 1],
        [32, 33, 1],
        [16, 16, 4],
    ] {
        seen.code(format!("block {block:?}"), launch(gpu, [1; 3], block, 0));
    }
    for shared in [48 << 10, (48 << 10) + 1, 228 << 10, u32::MAX] {
        seen.code(
            format!("shared {shared}"),
            launch(gpu, [1; 3], [1; 3], shared),
        );
    }
}

/// Arguments in one buffer, by the `extra` parameter.
fn packed_arguments(gpu: &Gpu<'_>, seen: &mut Seen) {
    let address = gpu.alloc(4096).unwrap();
    let stream = gpu.stream_here();
    let mut go = |name: &str, bytes: &[u8], mut len: usize| {
        must(call!(gpu, cuMemsetD8Async(address, 0, 4096, stream)));
        let number = ptr::without_provenance_mut::<c_void>;
        let mut extra: [*mut c_void; 5] = [
            number(1),
            bytes.as_ptr().cast_mut().cast(),
            number(2),
            (&raw mut len).cast(),
            number(0),
        ];
        let none = ptr::null_mut();
        let code = call!(
            gpu,
            cuLaunchKernel(
                gpu.sm_ids,
                5,
                1,
                1,
                32,
                1,
                1,
                0,
                stream,
                none,
                extra.as_mut_ptr()
            )
        );
        let mut counts = [0_u32; 1024];
        let to = counts.as_mut_ptr().cast();
        must(call!(gpu, cuMemcpyDtoHAsync_v2(to, address, 4096, stream)));
        must(call!(gpu, cuStreamSynchronize(stream)));
        let sum: u32 = counts.iter().sum();
        seen.note(name, format!("{} {sum}", say(code)));
    };
    let mut bytes = address.to_ne_bytes().to_vec();
    bytes.extend(1024_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    go("whole", &bytes, 16);
    bytes.extend([0; 16]);
    go("longer", &bytes, 32);
    gpu.close(stream);
    must(call!(gpu, cuMemFree_v2(address)));
}

fn wrong_arguments(gpu: &Gpu<'_>, seen: &mut Seen) {
    let mut args = SmIdsArgs::new(0, 0, 0);
    let mut args = args.pointers();
    let number = ptr::without_provenance_mut::<c_void>;
    let mut buffer = [0_u64; 2];
    let mut short = 8_usize;
    let mut extra = [
        number(1),
        buffer.as_mut_ptr().cast(),
        number(2),
        (&raw mut short).cast(),
        number(0),
    ];
    let none: CUstream = ptr::null_mut();
    let mut go = |name: &str, params: *mut *mut c_void, extra: *mut *mut c_void| {
        let code = call!(
            gpu,
            cuLaunchKernel(gpu.sm_ids, 1, 1, 1, 1, 1, 1, 0, none, params, extra)
        );
        seen.code(name, code);
    };
    go("both ways", args.as_mut_ptr(), extra.as_mut_ptr());
    go("too short a buffer", ptr::null_mut(), extra.as_mut_ptr());
    extra[0] = number(9);
    go("an unknown extra", ptr::null_mut(), extra.as_mut_ptr());
    go("neither way", ptr::null_mut(), ptr::null_mut());
    let mut with_null = args;
    with_null[1] = ptr::null_mut();
    go("a null argument", with_null.as_mut_ptr(), ptr::null_mut());
    let code = call!(
        gpu,
        cuLaunchKernelEx(ptr::null(), gpu.sm_ids, args.as_mut_ptr(), ptr::null_mut())
    );
    seen.code("no configuration", code);
}

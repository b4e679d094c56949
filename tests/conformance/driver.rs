//! The driver and its devices: attributes, error names, what works when.

use std::{collections::BTreeMap, ffi::CStr, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, SmIdsArgs, call, say},
};

pub const CASES: &[Case] = &[
    Case::new("driver/attributes", attributes),
    Case::new("driver/devices", devices),
    Case::new("driver/error_names", error_names),
    Case::new("driver/primary_context", primary_context),
    Case::new("driver/what_needs_a_context", what_needs_a_context),
    Case::new("driver/sticky_fault", sticky_fault).rough(),
    Case::new("driver/init_flags", init_flags).rough(),
];

/// Every attribute but those of one machine or board: PCI bus, device, domain and ids, MIG, and the clocks,
/// which change.
fn attributes(gpu: &Gpu<'_>, seen: &mut Seen) {
    for id in 0..200 {
        if [13, 33, 34, 36, 50, 139, 140].contains(&id) {
            continue;
        }
        let mut value = 0;
        let code = call!(
            gpu,
            cuDeviceGetAttribute(&mut value, CUdevice_attribute_enum(id), gpu.device)
        );
        if code == OK {
            seen.note(format!("{id:03}"), value);
        } else {
            seen.code(format!("{id:03}"), code);
        }
    }
}

fn devices(gpu: &Gpu<'_>, seen: &mut Seen) {
    let (mut device, mut count, mut bytes) = (-1, 0, 0);
    seen.code("count", call!(gpu, cuDeviceGetCount(&mut count)));
    for ordinal in [-1, count, count + 100] {
        let name = if ordinal < 0 { "below" } else { "above" };
        let code = call!(gpu, cuDeviceGet(&mut device, ordinal));
        seen.code(format!("get {name} {}", ordinal.max(count) - count), code);
        let code = call!(gpu, cuDeviceTotalMem_v2(&mut bytes, ordinal));
        seen.code(
            format!("total memory {name} {}", ordinal.max(count) - count),
            code,
        );
    }
    let mut name = [1_i8; 64];
    for len in [64, 5, 1] {
        name.fill(1);
        let code = call!(
            gpu,
            cuDeviceGetName(name.as_mut_ptr().cast(), len, gpu.device)
        );
        let text = name.iter().map(|byte| *byte as u8 as char);
        let text: String = text.take_while(|c| *c != '\0').take(len as usize).collect();
        seen.note(format!("name in {len}"), format!("{} {text}", say(code)));
    }
    for len in [0, -1] {
        let code = call!(
            gpu,
            cuDeviceGetName(name.as_mut_ptr().cast(), len, gpu.device)
        );
        seen.code(format!("name in {len}"), code);
    }
    seen.code(
        "memory",
        call!(gpu, cuDeviceTotalMem_v2(&mut bytes, gpu.device)),
    );
    seen.note("memory MiB", bytes >> 20);
    let (mut least, mut greatest) = (1, 1);
    let code = call!(gpu, cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
    seen.note("priorities", format!("{} {least} to {greatest}", say(code)));
    let code = call!(
        gpu,
        cuCtxGetStreamPriorityRange(ptr::null_mut(), ptr::null_mut())
    );
    seen.code("priorities to nowhere", code);
}

/// Codes that have a name, and whether each has a description.
fn error_names(gpu: &Gpu<'_>, seen: &mut Seen) {
    let mut names = BTreeMap::new();
    for code in 0..=1100 {
        let (mut name, mut text) = (ptr::null(), ptr::null());
        let named = call!(gpu, cuGetErrorName(cudaError_enum(code), &mut name));
        let described = call!(gpu, cuGetErrorString(cudaError_enum(code), &mut text));
        if named == OK {
            let name = unsafe { CStr::from_ptr(name) };
            let with = if described == OK { "" } else { " without text" };
            names.insert(
                format!("{code:04}"),
                format!("{}{with}", name.to_string_lossy()),
            );
        } else if code == 1100 {
            seen.note(
                "unknown",
                format!("{} {} {}", say(named), say(described), name.is_null()),
            );
        }
    }
    for (code, name) in names {
        seen.note(code, name);
    }
}

fn primary_context(gpu: &Gpu<'_>, seen: &mut Seen) {
    let (mut flags, mut active, mut again, mut device) = (9, 9, ptr::null_mut(), -1);
    let state = |flags: &mut u32, active: &mut i32| {
        let code = call!(gpu, cuDevicePrimaryCtxGetState(gpu.device, flags, active));
        format!("{} flags {flags} active {active}", say(code))
    };
    seen.note("state", state(&mut flags, &mut active));
    seen.code(
        "retain",
        call!(gpu, cuDevicePrimaryCtxRetain(&mut again, gpu.device)),
    );
    seen.note("retained is the same", again == gpu.primary);
    seen.code(
        "release",
        call!(gpu, cuDevicePrimaryCtxRelease_v2(gpu.device)),
    );
    seen.note("state after", state(&mut flags, &mut active));
    for wrong in [-1, 1000] {
        let code = call!(gpu, cuDevicePrimaryCtxRetain(&mut again, wrong));
        seen.code(format!("retain {wrong}"), code);
        let code = call!(gpu, cuDevicePrimaryCtxRelease_v2(wrong));
        seen.code(format!("release {wrong}"), code);
    }
    seen.code("device", call!(gpu, cuCtxGetDevice(&mut device)));
    seen.note("device is the same", device == gpu.device);
}

/// Each call without a current context; those with a stream have one of a green context.
fn what_needs_a_context(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    let spare = gpu.stream(green);
    let address = gpu.alloc(4096).unwrap();
    let (to_free, to_free_late) = (gpu.alloc(4096).unwrap(), gpu.alloc(4096).unwrap());
    let (event, timed) = (gpu.event(2), gpu.event(0));
    let mut host: Vec<u8> = vec![0; 4096];
    let (mut pinned, mut pinned_here) = (ptr::null_mut(), ptr::null_mut());
    crate::gpu::must(call!(gpu, cuMemHostAlloc(&mut pinned, 4096, 0)));
    let none = ptr::null_mut();
    gpu.without(|| {
        let (mut a, mut b) = (0_usize, 0_usize);
        let (mut i, mut j) = (0_i32, 0_i32);
        let mut u = 0_u32;
        let (mut made_event, mut found, mut made, mut resource) = (
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            CUdevResource::default(),
        );
        let mut new = 0;
        let data = host.as_mut_ptr().cast::<std::ffi::c_void>();
        let ptx = c".version 6.0\n.target sm_60\n.address_size 64\n";
        let mut module = ptr::null_mut();
        let sm = crate::gpu::SM;
        let codes = [
            ("cuCtxGetDevice", call!(gpu, cuCtxGetDevice(&mut i))),
            ("cuCtxSynchronize", call!(gpu, cuCtxSynchronize())),
            (
                "cuCtxGetStreamPriorityRange",
                call!(gpu, cuCtxGetStreamPriorityRange(&mut i, &mut j)),
            ),
            ("cuMemGetInfo", call!(gpu, cuMemGetInfo_v2(&mut a, &mut b))),
            ("cuMemAlloc", call!(gpu, cuMemAlloc_v2(&mut new, 4096))),
            ("cuMemFree", call!(gpu, cuMemFree_v2(to_free))),
            ("cuMemFree of null", call!(gpu, cuMemFree_v2(0))),
            (
                "cuMemHostAlloc",
                call!(gpu, cuMemHostAlloc(&mut pinned_here, 4096, 0)),
            ),
            ("cuMemFreeHost", call!(gpu, cuMemFreeHost(pinned))),
            (
                "cuMemcpyHtoD",
                call!(gpu, cuMemcpyHtoD_v2(address, data, 64)),
            ),
            (
                "cuMemcpyDtoH",
                call!(gpu, cuMemcpyDtoH_v2(data, address, 64)),
            ),
            (
                "cuMemcpyHtoDAsync",
                call!(gpu, cuMemcpyHtoDAsync_v2(address, data, 64, stream)),
            ),
            (
                "cuMemcpyDtoHAsync",
                call!(gpu, cuMemcpyDtoHAsync_v2(data, address, 64, stream)),
            ),
            (
                "cuMemcpyDtoHAsync in the default stream",
                call!(gpu, cuMemcpyDtoHAsync_v2(data, address, 64, none)),
            ),
            (
                "cuMemsetD8Async",
                call!(gpu, cuMemsetD8Async(address, 0, 64, stream)),
            ),
            (
                "cuMemsetD8Async in the default stream",
                call!(gpu, cuMemsetD8Async(address, 0, 64, none)),
            ),
            (
                "cuStreamCreateWithPriority",
                call!(gpu, cuStreamCreateWithPriority(&mut made, 1, 0)),
            ),
            ("cuStreamQuery", {
                crate::gpu::must(call!(gpu, cuStreamSynchronize(stream)));
                call!(gpu, cuStreamQuery(stream))
            }),
            (
                "cuStreamQuery of the default stream",
                call!(gpu, cuStreamQuery(none)),
            ),
            (
                "cuStreamSynchronize of the default stream",
                call!(gpu, cuStreamSynchronize(none)),
            ),
            (
                "cuStreamGetFlags",
                call!(gpu, cuStreamGetFlags(stream, &mut u)),
            ),
            (
                "cuStreamGetPriority",
                call!(gpu, cuStreamGetPriority(stream, &mut i)),
            ),
            (
                "cuStreamGetGreenCtx",
                call!(gpu, cuStreamGetGreenCtx(stream, &mut found)),
            ),
            ("cuStreamDestroy", call!(gpu, cuStreamDestroy_v2(spare))),
            (
                "cuEventCreate",
                call!(gpu, cuEventCreate(&mut made_event, 2)),
            ),
            ("cuEventRecord", call!(gpu, cuEventRecord(event, stream))),
            (
                "cuEventRecord in the default stream",
                call!(gpu, cuEventRecord(event, none)),
            ),
            ("cuEventSynchronize", call!(gpu, cuEventSynchronize(event))),
            ("cuEventQuery", call!(gpu, cuEventQuery(event))),
            (
                "cuStreamWaitEvent",
                call!(gpu, cuStreamWaitEvent(stream, event, 0)),
            ),
            (
                "cuGreenCtxRecordEvent",
                call!(gpu, cuGreenCtxRecordEvent(green, event)),
            ),
            (
                "cuGreenCtxWaitEvent",
                call!(gpu, cuGreenCtxWaitEvent(green, event)),
            ),
            ("cuEventDestroy", call!(gpu, cuEventDestroy_v2(timed))),
            (
                "cuModuleLoadData",
                call!(gpu, cuModuleLoadData(&mut module, ptx.as_ptr().cast())),
            ),
            ("cuLaunchKernel", gpu.launch_empty(stream)),
            (
                "cuLaunchKernel in the default stream",
                gpu.launch_empty(none),
            ),
            (
                "cuDeviceGetDevResource",
                call!(gpu, cuDeviceGetDevResource(gpu.device, &mut resource, sm)),
            ),
            (
                "cuGreenCtxGetDevResource",
                call!(gpu, cuGreenCtxGetDevResource(green, &mut resource, sm)),
            ),
            (
                "cuCtxGetDevResource",
                call!(gpu, cuCtxGetDevResource(gpu.primary, &mut resource, sm)),
            ),
            (
                "cuGreenCtxStreamCreate",
                call!(gpu, cuGreenCtxStreamCreate(&mut made, green, 1, 0)),
            ),
        ];
        for (name, code) in codes {
            seen.code(name, code);
        }
        if !made.is_null() {
            gpu.close(made);
        }
        if new != 0 {
            crate::gpu::must(call!(gpu, cuMemFree_v2(new)));
        }
    });
    // What could not be freed there.
    for address in [to_free, to_free_late, address] {
        let _ = call!(gpu, cuMemFree_v2(address));
    }
    let _ = call!(gpu, cuMemFreeHost(pinned));
    let _ = call!(gpu, cuEventDestroy_v2(timed));
    crate::gpu::must(call!(gpu, cuEventDestroy_v2(event)));
    gpu.close(stream);
    gpu.destroy(green);
}

/// An illegal address in one green context, and what works after it.
fn sticky_fault(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [one, other] = gpu.quarters();
    let streams = [one, other].map(|green| gpu.stream(green));
    let event = gpu.event(2);
    let mut args = SmIdsArgs::new(0x1000, 1024, 0);
    let launched = gpu.launch(gpu.sm_ids, streams[0], 1, 64, &mut args.pointers());
    seen.code("launch", launched);
    let (mut a, mut b, mut i) = (0_usize, 0_usize, 0);
    let (mut context, mut address) = (ptr::null_mut(), 0);
    seen.code("own stream", call!(gpu, cuStreamSynchronize(streams[0])));
    seen.code("other stream", call!(gpu, cuStreamSynchronize(streams[1])));
    seen.code("query", call!(gpu, cuStreamQuery(streams[1])));
    seen.code("launch after", gpu.launch_empty(streams[1]));
    seen.code("context", call!(gpu, cuCtxSynchronize()));
    seen.code("alloc", call!(gpu, cuMemAlloc_v2(&mut address, 64)));
    seen.code("info", call!(gpu, cuMemGetInfo_v2(&mut a, &mut b)));
    seen.code("event record", call!(gpu, cuEventRecord(event, streams[1])));
    seen.code("event query", call!(gpu, cuEventQuery(event)));
    seen.code("event destroy", call!(gpu, cuEventDestroy_v2(event)));
    seen.code("current", call!(gpu, cuCtxGetCurrent(&mut context)));
    seen.code("set current", call!(gpu, cuCtxSetCurrent(gpu.primary)));
    seen.code("device count", call!(gpu, cuDeviceGetCount(&mut i)));
    seen.code("version", call!(gpu, cuDriverGetVersion(&mut i)));
    seen.code("init", call!(gpu, cuInit(0)));
    seen.code("split", {
        let mut resource = CUdevResource::default();
        call!(
            gpu,
            cuDeviceGetDevResource(gpu.device, &mut resource, crate::gpu::SM)
        )
    });
    seen.code("stream destroy", call!(gpu, cuStreamDestroy_v2(streams[1])));
    seen.code("green destroy", call!(gpu, cuGreenCtxDestroy(other)));
    seen.code(
        "retain",
        call!(gpu, cuDevicePrimaryCtxRetain(&mut context, gpu.device)),
    );
    seen.code(
        "release",
        call!(gpu, cuDevicePrimaryCtxRelease_v2(gpu.device)),
    );
}

fn init_flags(gpu: &Gpu<'_>, seen: &mut Seen) {
    seen.code("again", call!(gpu, cuInit(0)));
    seen.code("1", call!(gpu, cuInit(1)));
}

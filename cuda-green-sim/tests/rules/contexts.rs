//! Contexts, and the streams and events in them: which context is current, and what ends with a context.

use std::{ffi::c_void, ptr};

use crate::client::*;
use cuda_green_sys::*;

#[test]
fn contexts_are_a_stack_for_each_thread() {
    let client = Client::new("h200@13.0");
    let green = client.green(&[client.device_sms()]).unwrap();
    let context = client.context(green);
    assert_eq!(context, client.context(green));
    let mut found = ptr::null_mut();
    unsafe {
        assert_eq!(client.api.cuCtxPushCurrent_v2(context).unwrap(), OK);
        assert_eq!(client.api.cuCtxGetCurrent(&mut found).unwrap(), OK);
        assert_eq!(found, context);
        // A green context's handle is not a context's until `cuCtxFromGreenCtx`, which then returns the same handle.
        assert_eq!(context.cast(), green);
        let fresh = client.green(&[client.device_sms()]).unwrap();
        let code = client.api.cuCtxPushCurrent_v2(fresh.cast()).unwrap();
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_CONTEXT);
        assert_eq!(client.destroy(fresh), OK);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut other = ptr::dangling_mut();
                assert_eq!(client.api.cuCtxGetCurrent(&mut other).unwrap(), OK);
                assert!(other.is_null());
                let code = client.api.cuCtxPopCurrent_v2(&mut other).unwrap();
                assert_eq!(code, CUresult::CUDA_ERROR_INVALID_CONTEXT);
                let code = client.api.cuCtxSynchronize().unwrap();
                assert_eq!(code, CUresult::CUDA_ERROR_INVALID_CONTEXT);
            });
        });
        assert_eq!(client.api.cuCtxPopCurrent_v2(&mut found).unwrap(), OK);
        assert_eq!(found, context);
        assert_eq!(client.api.cuCtxGetCurrent(&mut found).unwrap(), OK);
        assert_eq!(found, client.primary);
    }
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

unsafe impl Sync for Client {}

#[test]
fn a_destroyed_context_leaves_a_dangling_handle_and_useless_streams() {
    for (version, code, can_destroy) in [
        ("13.0", CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED, false),
        ("13.1", CUresult::CUDA_ERROR_STREAM_DETACHED, true),
    ] {
        let client = Client::new(&format!("h200@{version}"));
        let api = &client.api;
        let green = client.green(&[client.device_sms()]).unwrap();
        let context = client.context(green);
        let stream = client.stream(green);
        let (mut found, mut value) = (ptr::null_mut(), 0);
        unsafe {
            assert_eq!(api.cuCtxPushCurrent_v2(context).unwrap(), OK);
            assert_eq!(client.destroy(green), OK);
            assert_eq!(api.cuCtxGetCurrent(&mut found).unwrap(), OK);
            assert_eq!(found, context, "a dangling handle");
            let destroyed = CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED;
            assert_eq!(client.alloc(1).err(), Some(destroyed));
            assert_eq!(client.destroy(green), destroyed);
            assert_eq!(api.cuCtxPopCurrent_v2(&mut found).unwrap(), OK);
            assert_eq!(api.cuStreamQuery(stream).unwrap(), code);
            assert_eq!(api.cuStreamSynchronize(stream).unwrap(), code);
            assert_eq!(api.cuStreamGetPriority(stream, &mut value).unwrap(), code);
            if can_destroy {
                assert_eq!(client.sim.live_objects().streams, 1);
                assert_eq!(api.cuStreamDestroy_v2(stream).unwrap(), OK);
                client.finish();
            } else {
                assert_eq!(api.cuStreamDestroy_v2(stream).unwrap(), code);
                assert_eq!(client.sim.live_objects().abandoned, 1);
                assert!(!client.sim.live_objects().is_empty());
            }
        }
    }
}

#[test]
fn green_streams_must_be_non_blocking_and_priorities_are_clamped() {
    let client = Client::new("h200@13.0");
    let api = &client.api;
    let green = client.green(&[client.device_sms()]).unwrap();
    let (mut stream, mut value, mut least, mut greatest) = (ptr::null_mut(), 0, 1, 1);
    let (mut context, mut found) = (ptr::null_mut(), ptr::null_mut());
    unsafe {
        let code = api.cuGreenCtxStreamCreate(&mut stream, green, 0, 0);
        assert_eq!(code.unwrap(), INVALID_VALUE);
        let code = api.cuCtxGetStreamPriorityRange(&mut least, &mut greatest);
        assert_eq!((code.unwrap(), least, greatest), (OK, 0, -5));
        for (asked, given) in [(-9, -5), (-5, -5), (-3, -3), (4, 0)] {
            let code = api.cuGreenCtxStreamCreate(&mut stream, green, 1, asked);
            assert_eq!(code.unwrap(), OK);
            assert_eq!(api.cuStreamGetPriority(stream, &mut value).unwrap(), OK);
            assert_eq!(value, given);
            let code = api.cuStreamGetCtx_v2(stream, &mut context, &mut found);
            assert_eq!((code.unwrap(), context, found), (OK, client.primary, green));
            assert_eq!(api.cuStreamDestroy_v2(stream).unwrap(), OK);
        }
        let gone = CUresult::CUDA_ERROR_INVALID_HANDLE;
        assert_eq!(api.cuStreamDestroy_v2(stream).unwrap(), gone);
    }
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

#[test]
fn events_work_across_contexts() {
    let client = Client::new("h200@13.0");
    let api = &client.api;
    let split = client.split(&client.device_sms(), 2, 0, 32).unwrap();
    let greens = [0, 1].map(|index| client.green(&[split.groups[index]]).unwrap());
    let streams = greens.map(|green| client.stream(green));
    let (mut start, mut end, mut quick) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let mut milliseconds = -1.0;
    let gone = CUresult::CUDA_ERROR_INVALID_HANDLE;
    unsafe {
        assert_eq!(api.cuEventCreate(&mut start, 0).unwrap(), OK);
        assert_eq!(api.cuEventCreate(&mut end, 0).unwrap(), OK);
        assert_eq!(api.cuEventCreate(&mut quick, 2).unwrap(), OK);
        assert_eq!(api.cuEventCreate(&mut quick, 64).unwrap(), INVALID_VALUE);
        assert_eq!(api.cuEventQuery(end).unwrap(), OK);
        let code = api.cuEventElapsedTime(&mut milliseconds, start, end);
        assert_eq!(code.unwrap(), gone, "never recorded");
        assert_eq!(api.cuEventRecord(start, streams[0]).unwrap(), OK);
        assert_eq!(api.cuGreenCtxRecordEvent(greens[0], end).unwrap(), OK);
        assert_eq!(api.cuGreenCtxWaitEvent(greens[1], end).unwrap(), OK);
        assert_eq!(api.cuStreamWaitEvent(streams[1], end, 0).unwrap(), OK);
        assert_eq!(api.cuEventSynchronize(end).unwrap(), OK);
        let code = api.cuEventElapsedTime(&mut milliseconds, start, end);
        assert_eq!(code.unwrap(), OK);
        assert!((0.0..60_000.0).contains(&milliseconds));
        let code = api.cuEventElapsedTime(&mut milliseconds, start, quick);
        assert_eq!(code.unwrap(), gone, "no timing");
        for stream in streams {
            assert_eq!(api.cuStreamDestroy_v2(stream).unwrap(), OK);
        }
        for green in greens {
            assert_eq!(client.destroy(green), OK);
        }
        assert_eq!(api.cuEventQuery(end).unwrap(), OK, "outlives its contexts");
        for event in [start, end, quick] {
            assert_eq!(api.cuEventDestroy_v2(event).unwrap(), OK);
            assert_eq!(api.cuEventDestroy_v2(event).unwrap(), gone);
        }
    }
    client.finish();
}

#[test]
fn a_forgotten_object_is_counted_even_when_its_context_is_gone() {
    let client = Client::new("h200@13.0");
    client.alloc(100).unwrap();
    let live = client.sim.live_objects();
    assert_eq!((live.device_allocations, live.device_bytes), (1, 100));
    assert_eq!(
        live.to_string(),
        "1 primary retain (cuDevicePrimaryCtxRetain at call 3), 1 device allocation of 100 bytes (cuMemAlloc_v2 at call 5)"
    );
    unsafe { assert_eq!(client.api.cuDevicePrimaryCtxRelease_v2(0).unwrap(), OK) };
    let live = client.sim.live_objects();
    assert_eq!(
        live.to_string(),
        "1 abandoned object (cuMemAlloc_v2 at call 5)"
    );
    assert!(!live.is_empty());
}

#[test]
fn a_green_context_holds_the_primary_context() {
    let client = Client::new("h200@13.0");
    let green = client.green(&[client.device_sms()]).unwrap();
    let (mut flags, mut active) = (0, 0);
    unsafe {
        assert_eq!(client.api.cuDevicePrimaryCtxRelease_v2(0).unwrap(), OK);
        let code = client.api.cuDevicePrimaryCtxRelease_v2(0).unwrap();
        assert_eq!(code, CUresult::CUDA_ERROR_NOT_PERMITTED);
        let mut state = || {
            let code = client
                .api
                .cuDevicePrimaryCtxGetState(0, &mut flags, &mut active);
            assert_eq!(code.unwrap(), OK);
            active
        };
        assert_eq!(state(), 1);
        // Destroying it does not end the primary context; the next release does.
        assert_eq!(client.destroy(green), OK);
        assert_eq!(state(), 1);
        let mut again = ptr::null_mut();
        let code = client.api.cuDevicePrimaryCtxRetain(&mut again, 0).unwrap();
        assert_eq!((code, again), (OK, client.primary));
        assert_eq!(client.api.cuDevicePrimaryCtxRelease_v2(0).unwrap(), OK);
        assert_eq!(state(), 0);
        // It can still be made current, but nothing works in it.
        let (mut device, mut address) = (-1, 0);
        assert_eq!(client.api.cuCtxSetCurrent(client.primary).unwrap(), OK);
        assert_eq!(client.api.cuCtxGetDevice(&mut device).unwrap(), OK);
        let code = client.api.cuMemAlloc_v2(&mut address, 64).unwrap();
        assert_eq!(code, CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        assert_eq!(client.api.cuCtxSetCurrent(ptr::null_mut()).unwrap(), OK);
    }
    assert!(client.sim.live_objects().is_empty());
}

#[test]
fn many_threads_make_and_destroy_partitions() {
    let client = Client::new("rtx5090@12.8");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| unsafe {
                assert_eq!(client.api.cuCtxSetCurrent(client.primary).unwrap(), OK);
                for _ in 0..250 {
                    let split = client.split(&client.device_sms(), 21, 0, 8).unwrap();
                    let mut last = split.groups[15..].to_vec();
                    last.push(split.rest);
                    let greens = [
                        &split.groups[..5],
                        &split.groups[5..10],
                        &split.groups[10..15],
                        &last,
                    ]
                    .map(|resources| client.green(resources).unwrap());
                    let sizes = greens.map(|green| count(&client.green_sms(green)));
                    assert_eq!(sizes, [40, 40, 40, 50]);
                    for green in greens {
                        let stream = client.stream(green);
                        assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK);
                        assert_eq!(client.destroy(green), OK);
                    }
                }
                assert_eq!(client.api.cuCtxSetCurrent(ptr::null_mut()).unwrap(), OK);
            });
        }
    });
    client.finish();
}

/// Work in a context's stream needs no current context; creating objects does (measured).
#[test]
fn a_stream_stands_in_for_the_current_context() {
    let client = Client::new("h200@13.0");
    let api = &client.api;
    let none = CUresult::CUDA_ERROR_INVALID_CONTEXT;
    let green = client.green(&[client.device_sms()]).unwrap();
    let stream = client.stream(green);
    let (module, _) = client.function(c"custom");
    let pool = pool(&client, 0);
    let plain = client.alloc(64).unwrap();
    let (mut event, mut function, mut host) = (ptr::null_mut(), ptr::null_mut(), [0_u8; 64]);
    let (mut address, mut free, mut total) = (0, 0, 0);
    let mut fresh = ptr::null_mut();
    unsafe {
        assert_eq!(api.cuEventCreate(&mut event, 2).unwrap(), OK);
        assert_eq!(api.cuCtxSetCurrent(ptr::null_mut()).unwrap(), OK);

        let code = api.cuModuleGetFunction(&mut function, module, c"custom".as_ptr());
        assert_eq!(code.unwrap(), OK);
        let code = api.cuMemAllocFromPoolAsync(&mut address, 64, pool, stream);
        assert_eq!(code.unwrap(), OK);
        assert_eq!(api.cuMemsetD8Async(address, 1, 64, stream).unwrap(), OK);
        let mut args: [*mut c_void; 1] = [(&raw mut address).cast()];
        assert_eq!(client.launch(function, 1, stream, &mut args), OK);
        let to = host.as_mut_ptr().cast();
        let code = api.cuMemcpyDtoHAsync_v2(to, address, 64, stream);
        assert_eq!(code.unwrap(), OK);
        let code = api.cuMemcpyHtoDAsync_v2(address, to, 64, stream);
        assert_eq!(code.unwrap(), OK);
        assert_eq!(api.cuEventRecord(event, stream).unwrap(), OK);
        assert_eq!(api.cuStreamWaitEvent(stream, event, 0).unwrap(), OK);
        assert_eq!(api.cuEventSynchronize(event).unwrap(), OK);
        assert_eq!(api.cuStreamSynchronize(stream).unwrap(), OK);
        assert_eq!(host, [1; 64]);

        assert_eq!(api.cuMemcpyDtoH_v2(to, address, 64).unwrap(), none);
        assert_eq!(api.cuMemcpyHtoD_v2(address, to, 64).unwrap(), none);
        assert_eq!(api.cuEventCreate(&mut fresh, 2).unwrap(), none);
        assert_eq!(client.alloc(64).err(), Some(none));
        assert_eq!(api.cuMemGetInfo_v2(&mut free, &mut total).unwrap(), none);
        assert_eq!(
            api.cuMemHostAlloc(&mut host.as_mut_ptr().cast(), 64, 0)
                .unwrap(),
            none
        );
        let code = api.cuModuleLoadData(&mut ptr::null_mut(), PTX.as_ptr().cast());
        assert_eq!(code.unwrap(), none);
        assert_eq!(client.launch(function, 1, ptr::null_mut(), &mut args), none);

        assert_eq!(api.cuMemFreeAsync(address, stream).unwrap(), OK);
        assert_eq!(api.cuMemFree_v2(plain).unwrap(), OK);
        assert_eq!(api.cuEventDestroy_v2(event).unwrap(), OK);
        assert_eq!(api.cuMemPoolDestroy(pool).unwrap(), OK);
        assert_eq!(api.cuModuleUnload(module).unwrap(), OK);
        assert_eq!(api.cuStreamDestroy_v2(stream).unwrap(), OK);
    }
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

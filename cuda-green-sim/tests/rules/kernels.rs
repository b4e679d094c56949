//! Modules, kernels registered by a test, and their faults.

use std::{ffi::c_void, ptr};

use crate::client::*;
use cuda_green_sys::*;

#[test]
fn modules_are_checked() {
    let client = Client::new("t4@12.4");
    let api = &client.api;
    let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
    let mut log = [0_u8; 80];
    let mut options = [
        CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values: [*mut c_void; 2] = [
        log.as_mut_ptr().cast(),
        ptr::without_provenance_mut(log.len()),
    ];
    for (image, code) in [
        (c"", CUresult::CUDA_ERROR_INVALID_IMAGE),
        (c"hello", CUresult::CUDA_ERROR_INVALID_IMAGE),
        (
            c".version 7.0 .target sm_70 {",
            CUresult::CUDA_ERROR_INVALID_PTX,
        ),
        (
            c".version 7.0 .target sm_80",
            CUresult::CUDA_ERROR_INVALID_PTX,
        ),
        (
            c".version 8.5 .target sm_70",
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
        ),
    ] {
        unsafe {
            let answer = api.cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            );
            assert_eq!(answer.unwrap(), code, "{image:?}");
        }
        assert!(log.starts_with(b"simulated driver: "));
    }
    unsafe {
        let code = api.cuModuleLoadData(&mut module, PTX.as_ptr().cast());
        assert_eq!(code.unwrap(), OK);
        let code = api.cuModuleGetFunction(&mut function, module, c"nobody".as_ptr());
        assert_eq!(code.unwrap(), CUresult::CUDA_ERROR_NOT_FOUND);
        assert_eq!(client.sim.live_objects().modules, 1);
        assert_eq!(api.cuModuleUnload(module).unwrap(), OK);
        let code = api.cuModuleUnload(module).unwrap();
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
    client.finish();
}

#[test]
fn kernels_of_ones_own_run_and_their_faults_stay() {
    let client = Client::new("h200@13.0");
    client.sim.register_kernel("custom", |launch| {
        assert_eq!((launch.name(), launch.block()), ("custom", [32, 1, 1]));
        let out = launch.arg_u64(0).unwrap();
        let blocks = launch.block_count() as u32;
        let _ = launch.write(out, &blocks.to_ne_bytes());
    });
    let (module, function) = client.function(c"custom");
    let mut address = client.alloc(4).unwrap();
    let mut args: [*mut c_void; 1] = [(&raw mut address).cast()];
    assert_eq!(client.launch(function, 5, ptr::null_mut(), &mut args), OK);
    let mut blocks = 0_u32;
    unsafe {
        let to = (&raw mut blocks).cast();
        assert_eq!(client.api.cuMemcpyDtoH_v2(to, address, 4).unwrap(), OK);
        assert_eq!(blocks, 5);
        assert_eq!(
            client.launch(function, 0, ptr::null_mut(), &mut args),
            INVALID_VALUE
        );
        assert_eq!(client.api.cuMemFree_v2(address).unwrap(), OK);
    }
    // The freed address is illegal: the launch succeeds, and every later call fails.
    assert_eq!(client.launch(function, 5, ptr::null_mut(), &mut args), OK);
    let fault = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    unsafe {
        assert_eq!(client.api.cuCtxSynchronize().unwrap(), fault);
        assert_eq!(client.api.cuModuleUnload(module).unwrap(), fault);
    }
    assert_eq!(client.alloc(4).err(), Some(fault));
}

#[test]
fn a_kernel_that_panics_is_a_failed_launch() {
    let client = Client::new("h200@13.0");
    client
        .sim
        .register_kernel("custom", |_| std::panic::resume_unwind(Box::new(())));
    let (_, function) = client.function(c"custom");
    let mut address = 0_u64;
    let mut args: [*mut c_void; 1] = [(&raw mut address).cast()];
    assert_eq!(client.launch(function, 1, ptr::null_mut(), &mut args), OK);
    let code = unsafe { client.api.cuCtxSynchronize().unwrap() };
    assert_eq!(code, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

/// Dimensions whose product overflows are refused like any others that are too large.
#[test]
fn shapes_beyond_all_numbers_are_refused() {
    let client = Client::new("h200@13.0");
    let (module, function) = client.function(c"custom");
    let most = u32::MAX;
    let mut attribute = CUlaunchAttribute {
        id: CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        ..Default::default()
    };
    let config = |block: u32, attrs: *mut CUlaunchAttribute| CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: block,
        blockDimY: block,
        blockDimZ: block,
        attrs,
        numAttrs: u32::from(!attrs.is_null()),
        ..Default::default()
    };
    let mut address = 0_u64;
    let mut args: [*mut c_void; 1] = [(&raw mut address).cast()];
    let mut go = |config: CUlaunchConfig| {
        let (params, none) = (args.as_mut_ptr(), ptr::null_mut());
        let launched = call!(client, cuLaunchKernelEx(&config, function, params, none));
        let mut fitting = 0;
        let counted = call!(
            client,
            cuOccupancyMaxActiveClusters(&mut fitting, function, &config)
        );
        (launched, counted)
    };
    let refused = (INVALID_VALUE, INVALID_VALUE);
    assert_eq!(go(config(most, ptr::null_mut())), refused);
    // The product of these is 0 in 64 bits.
    assert_eq!(go(config(1 << 22, ptr::null_mut())), refused);
    attribute.value.clusterDim = CUlaunchAttributeValue_union__bindgen_ty_1 {
        x: most,
        y: most,
        z: most,
    };
    let refused = CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE;
    assert_eq!(go(config(1, &mut attribute)), (refused, refused));
    ok!(client, cuModuleUnload(module));
    client.finish();
}

/// A cooperative launch must fit onto the SMs of its context at once; otherwise it is refused and nothing runs.
#[test]
fn cooperative_launches_are_resident_or_refused() {
    let client = Client::new("h200@13.0");
    let (module, function) = client.function(c"custom");
    let split = client.split(&client.device_sms(), 1, 0, 32).unwrap();
    let green = client.green(&split.groups).unwrap();
    let stream = client.stream(green);
    let launch = |stream, blocks, threads, shared, cooperative| {
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            ..Default::default()
        };
        attribute.value.cooperative = cooperative;
        let config = CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: stream,
            attrs: &mut attribute,
            numAttrs: 1,
        };
        let mut out = 0_u64;
        let mut args: [*mut c_void; 1] = [(&raw mut out).cast()];
        let params = args.as_mut_ptr();
        call!(
            client,
            cuLaunchKernelEx(&config, function, params, ptr::null_mut())
        )
    };
    let too_large = CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    for (stream, sms) in [(ptr::null_mut(), 132), (stream, 32)] {
        // Limited by blocks, by threads and by shared memory: an SM has 32, 2048 and 228 KiB of them.
        for (threads, shared, on_each) in
            [(32, 0, 32), (100, 0, 16), (1024, 0, 2), (32, 47 << 10, 4)]
        {
            let room = sms * on_each;
            assert_eq!(launch(stream, room, threads, shared, 1), OK);
            assert_eq!(launch(stream, room + 1, threads, shared, 1), too_large);
            assert_eq!(launch(stream, room + 1, threads, shared, 0), OK);
        }
    }
    ok!(client, cuStreamDestroy_v2(stream));
    ok!(client, cuModuleUnload(module));
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

/// A module's function runs on its module's device; there is no elapsed time between events of two devices.
#[test]
fn things_of_two_devices_do_not_meet() {
    let client = Client::new("2xh200@13.0");
    let (module, function) = client.function(c"custom");
    let (mut other, mut event, mut foreign) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let mut foreign_stream = ptr::null_mut();
    ok!(client, cuEventCreate(&mut event, 0));
    ok!(client, cuEventRecord(event, ptr::null_mut()));
    ok!(client, cuDevicePrimaryCtxRetain(&mut other, 1));
    ok!(client, cuCtxPushCurrent_v2(other));
    ok!(client, cuEventCreate(&mut foreign, 0));
    ok!(
        client,
        cuStreamCreateWithPriority(&mut foreign_stream, 1, 0)
    );
    ok!(client, cuEventRecord(foreign, foreign_stream));
    let refused = CUresult::CUDA_ERROR_INVALID_HANDLE;
    let mut out = 0_u64;
    let mut args: [*mut c_void; 1] = [(&raw mut out).cast()];
    assert_eq!(
        client.launch(function, 1, foreign_stream, &mut args),
        refused
    );
    assert_eq!(call!(client, cuEventRecord(event, foreign_stream)), refused);
    let mut ms = 0.0;
    assert_eq!(
        call!(client, cuEventElapsedTime(&mut ms, event, foreign)),
        refused
    );
    ok!(client, cuStreamWaitEvent(foreign_stream, event, 0));
    ok!(client, cuStreamDestroy_v2(foreign_stream));
    ok!(client, cuEventDestroy_v2(foreign));
    ok!(client, cuCtxPopCurrent_v2(ptr::null_mut()));
    ok!(client, cuDevicePrimaryCtxRelease_v2(1));
    ok!(client, cuEventDestroy_v2(event));
    ok!(client, cuModuleUnload(module));
    client.finish();
}

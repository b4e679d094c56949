//! The driver's rules, through its own functions. Figures for `h200@13.0` were measured on an H200 with
//! driver 580; those of other profiles follow from the headers.

#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)] // see `client::Client`

mod client;

use std::{ffi::c_void, ptr};

use client::*;
use cuda_green_sim::{NOT_MODELLED, Sim, cuda_versions, profiles};
use cuda_green_sys::*;

#[test]
fn each_version_has_the_functions_that_it_had() {
    for version in cuda_versions() {
        let api = Sim::new(&format!("h200@{version}")).unwrap().api().unwrap();
        assert_eq!(api.version(), version);
        for (entry, absence) in api.entry_points() {
            assert_eq!(
                absence.is_none(),
                entry.since <= version,
                "{} in {version}",
                entry.name()
            );
        }
    }
}

/// Each device with each CUDA version, several of them at once, is there and can be looked at.
#[test]
fn every_device_goes_with_every_version() {
    for device in profiles() {
        for version in cuda_versions() {
            let sim = Sim::new(&format!("3x{}@{version}", device.name)).unwrap();
            let api = sim.api().unwrap();
            let (mut count, mut sms) = (0, 0);
            unsafe {
                assert_eq!(api.cuInit(0).unwrap(), OK);
                assert_eq!(api.cuDeviceGetCount(&mut count).unwrap(), OK);
                let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
                let code = api.cuDeviceGetAttribute(&mut sms, attribute, 2);
                assert_eq!(code.unwrap(), OK);
                let mut whole = CUdevResource::default();
                let code = api.cuDeviceGetDevResource(2, &mut whole, SM);
                if version < CudaVersion::new(12, 4) {
                    assert!(code.is_err(), "{version} has no green contexts");
                } else {
                    assert_eq!(code.unwrap(), OK);
                    assert_eq!(client::count(&whole), device.sm_count);
                }
            }
            assert_eq!((count, sms), (3, device.sm_count as i32));
        }
    }
    let sms = |name| profiles().iter().find(|p| p.name == name).unwrap().sm_count;
    assert_eq!(
        ["t4", "a100", "rtx4090", "l40s", "h100"].map(sms),
        [40, 108, 128, 142, 132]
    );
    assert_eq!(
        ["h200", "b200", "rtx5090", "gb10", "quad680"].map(sms),
        [132, 148, 170, 48, 680]
    );
}

#[test]
fn what_is_not_modelled_says_so() {
    let client = Client::new("h200@13.0");
    let (mut address, mut bytes) = (0, 0);
    let code = unsafe {
        let (module, name) = (ptr::null_mut(), ptr::null());
        let api = &client.api;
        api.cuModuleGetGlobal_v2(&mut address, &mut bytes, module, name)
    };
    assert_eq!(code.unwrap(), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(NOT_MODELLED, ["cuModuleGetGlobal_v2"]);
    client.finish();
}

#[test]
fn a_name_is_resolved_in_the_abi_asked_for() {
    let sim = Sim::new("h200@12.5").unwrap();
    let found = |name, major, minor| !sim.resolve(name, CudaVersion::new(major, minor)).is_null();
    assert!(!found(c"cuGreenCtxStreamCreate", 12, 4));
    assert!(found(c"cuGreenCtxStreamCreate", 12, 5));
    assert!(
        !found(c"cuGreenCtxStreamCreate", 12, 6),
        "above the driver's own"
    );
    assert!(!found(c"cuDevSmResourceSplit", 12, 5));
    assert!(!found(c"cuMakeCoffee", 12, 5));
}

#[test]
fn nothing_works_before_init_but_the_version() {
    let sim = Sim::new("h200@13.0").unwrap();
    let api = sim.api().unwrap();
    let (mut count, mut context) = (0, ptr::null_mut());
    let early = CUresult::CUDA_ERROR_NOT_INITIALIZED;
    unsafe {
        assert_eq!(api.cuDriverGetVersion(&mut count).unwrap(), OK);
        assert_eq!(count, 13000);
        assert_eq!(api.cuDeviceGetCount(&mut count).unwrap(), early);
        assert_eq!(api.cuCtxGetCurrent(&mut context).unwrap(), early);
        assert_eq!(api.cuInit(1).unwrap(), INVALID_VALUE);
        assert_eq!(api.cuInit(0).unwrap(), OK);
        assert_eq!(api.cuDeviceGetCount(&mut count).unwrap(), OK);
        assert_eq!(count, 1);
        assert_eq!(
            api.cuDeviceGetCount(ptr::null_mut()).unwrap(),
            INVALID_VALUE
        );
        assert_eq!(
            api.cuDeviceGet(&mut count, 1).unwrap(),
            CUresult::CUDA_ERROR_INVALID_DEVICE
        );
        assert_eq!(api.cuCtxGetCurrent(&mut context).unwrap(), OK);
        assert!(context.is_null());
    }
}

#[test]
fn devices_say_what_they_are() {
    for device in profiles() {
        let client = Client::new(&format!("{}@13.0", device.name));
        let mut name = [1; 64];
        let (mut value, mut bytes) = (0, 0_usize);
        unsafe {
            assert_eq!(
                client
                    .api
                    .cuDeviceGetName(name.as_mut_ptr(), 64, 0)
                    .unwrap(),
                OK
            );
            let text = std::ffi::CStr::from_ptr(name.as_ptr());
            assert_eq!(text.to_str().unwrap(), device.device_name);
            assert_eq!(
                client.api.cuDeviceGetName(name.as_mut_ptr(), 4, 0).unwrap(),
                OK
            );
            assert_eq!(std::ffi::CStr::from_ptr(name.as_ptr()).count_bytes(), 3);
            let sms = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
            assert_eq!(
                client.api.cuDeviceGetAttribute(&mut value, sms, 0).unwrap(),
                OK
            );
            assert_eq!(value as u32, device.sm_count);
            let code =
                client
                    .api
                    .cuDeviceGetAttribute(&mut value, CUdevice_attribute_enum(4711), 0);
            assert_eq!(code.unwrap(), INVALID_VALUE);
            assert_eq!(client.api.cuDeviceTotalMem_v2(&mut bytes, 0).unwrap(), OK);
            assert_eq!(bytes as u64, device.memory_bytes);
        }
        assert_eq!(count(&client.device_sms()), device.sm_count);
        client.finish();
    }
}

#[test]
fn errors_have_names() {
    let client = Client::new("t4@11.4");
    let mut text = ptr::null();
    unsafe {
        let code = client.api.cuGetErrorName(REFUSED, &mut text).unwrap();
        assert_eq!(code, OK);
        assert_eq!(
            std::ffi::CStr::from_ptr(text),
            c"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION"
        );
        let code = client.api.cuGetErrorString(CUresult(4711), &mut text);
        assert_eq!(code.unwrap(), INVALID_VALUE);
        assert!(text.is_null());
    }
    client.finish();
}

/// Sizes, groups and remainder of splits by count on the H200.
#[test]
fn split_by_count_as_measured() {
    let client = Client::new("h200@13.0");
    let device = client.device_sms();
    assert_eq!(
        (
            sm(&device).minSmPartitionSize,
            sm(&device).smCoscheduledAlignment
        ),
        (8, 8)
    );
    for (min_count, flags, groups, size, left) in [
        (32, 0, 4, 32, 4),
        (33, 0, 3, 40, 12),
        (129, 0, 1, 132, 0),
        (132, 0, 1, 132, 0),
        (0, 0, 15, 8, 12),
        (2, 1, 66, 2, 0),
    ] {
        let mut possible = 0;
        let code = unsafe {
            client.api.cuDevSmResourceSplitByCount(
                ptr::null_mut(),
                &mut possible,
                &device,
                ptr::null_mut(),
                flags,
                min_count,
            )
        };
        assert_eq!((code.unwrap(), possible), (OK, groups));
        let split = client.split(&device, 100, flags, min_count).unwrap();
        assert_eq!(split.groups.len() as u32, groups);
        for group in &split.groups {
            assert_eq!(count(group), size);
            assert_eq!(sm(group).minSmPartitionSize, 0);
            assert_eq!(sm(group).smCoscheduledAlignment, 0);
        }
        if left > 0 {
            assert_eq!(count(&split.rest), left);
        } else {
            assert_eq!(sm(&split.rest).smCount, 0);
        }
    }
    assert_eq!(client.split(&device, 100, 0, 133).err(), Some(REFUSED));
    assert_eq!(client.split(&device, 100, 3, 8).err(), Some(INVALID_VALUE));
    // Other bits are not looked at.
    assert_eq!(client.split(&device, 100, 4, 8).unwrap().groups.len(), 15);
    // Fewer groups than there could be: the rest is the remainder.
    let split = client.split(&device, 2, 0, 32).unwrap();
    assert_eq!((split.groups.len(), count(&split.rest)), (2, 68));
    client.finish();
}

#[test]
fn only_what_was_queried_can_be_split() {
    let client = Client::new("h200@13.0");
    let split = client.split(&client.device_sms(), 2, 0, 32).unwrap();
    assert_eq!(client.split(&split.groups[0], 2, 0, 8).err(), Some(REFUSED));
    assert_eq!(client.split(&split.rest, 2, 0, 8).err(), Some(REFUSED));
    let green = client.green(&[split.rest]).unwrap();
    let own = client.green_sms(green);
    assert_eq!((count(&own), sm(&own).minSmPartitionSize), (68, 2));
    let again = client.split(&own, 2, 0, 32).unwrap();
    assert_eq!(again.groups.len(), 2);
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

#[test]
fn forged_resources_are_found() {
    let client = Client::new("h200@13.0");
    let forged = CUdevResource {
        type_: SM,
        ..CUdevResource::default()
    };
    assert_eq!(client.split(&forged, 2, 0, 8).err(), Some(REFUSED));
    assert_eq!(
        client.split(&CUdevResource::default(), 2, 0, 8).err(),
        Some(CUresult::CUDA_ERROR_INVALID_RESOURCE_TYPE)
    );
    // A count that the client wrote is refused, whether it is larger or smaller.
    for count in [100_000, 16] {
        let mut changed = client.device_sms();
        changed.__bindgen_anon_1.sm.smCount = count;
        assert_eq!(client.split(&changed, 1, 0, 8).err(), Some(REFUSED));
    }
    client.finish();
}

#[test]
fn merged_units_are_disjoint_and_complete() {
    let client = Client::new("h200@13.0");
    let split = client.split(&client.device_sms(), 15, 0, 8).unwrap();
    let mut rest = split.groups[10..].to_vec();
    rest.push(split.rest);
    let mut seen = Vec::new();
    for (resources, size) in [
        (&split.groups[..7], 56),
        (&split.groups[7..10], 24),
        (&rest[..], 52),
    ] {
        let green = client.green(resources).unwrap();
        assert_eq!(count(&client.green_sms(green)), size);
        let stream = client.stream(green);
        let ids = client.sm_ids(stream);
        assert_eq!(ids.len() as u32, size);
        seen.extend(ids);
        unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
        assert_eq!(client.destroy(green), OK);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..132).collect::<Vec<_>>());
    assert_eq!(client.sm_ids(ptr::null_mut()), seen);
    client.finish();
}

#[test]
fn a_foreign_merge_reports_more_than_it_runs_on() {
    let client = Client::new("h200@13.0");
    let one = client.split(&client.device_sms(), 1, 0, 32).unwrap();
    let other = client.split(&client.device_sms(), 1, 0, 32).unwrap();
    let green = client.green(&[one.groups[0], other.groups[0]]).unwrap();
    assert_eq!(count(&client.green_sms(green)), 64);
    let stream = client.stream(green);
    assert_eq!(client.sm_ids(stream).len(), 32);
    unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
    assert_eq!(client.destroy(green), OK);
    client.finish();

    let newer = Client::new("h200@13.1");
    let one = newer.split(&newer.device_sms(), 2, 0, 32).unwrap();
    let other = newer.split(&newer.device_sms(), 1, 0, 32).unwrap();
    assert!(newer.descriptor(&one.groups).is_ok());
    let foreign = [one.groups[0], other.groups[0]];
    assert_eq!(newer.descriptor(&foreign).err(), Some(REFUSED));
    newer.finish();
}

#[test]
fn the_first_version_takes_one_resource_and_no_flag() {
    let client = Client::new("a100@12.4");
    let device = client.device_sms();
    assert_eq!(sm(&device).minSmPartitionSize, 0);
    assert_eq!(client.split(&device, 4, 1, 8).err(), Some(INVALID_VALUE));
    let split = client.split(&device, 4, 0, 27).unwrap();
    assert_eq!(split.groups.len(), 3);
    assert_eq!((count(&split.groups[0]), count(&split.rest)), (28, 24));
    assert_eq!(client.descriptor(&split.groups).err(), Some(INVALID_VALUE));
    assert!(client.descriptor(&split.groups[..1]).is_ok());
    client.finish();
}

#[test]
fn creation_flags_follow_the_version() {
    for (version, zero) in [
        ("12.4", INVALID_VALUE),
        ("13.2", INVALID_VALUE),
        ("13.3", OK),
    ] {
        let client = Client::new(&format!("h200@{version}"));
        let desc = client.descriptor(&[client.device_sms()]).unwrap();
        for (flags, expected) in [(0, zero), (1, OK), (2, INVALID_VALUE)] {
            let mut green = ptr::null_mut();
            let code = unsafe { client.api.cuGreenCtxCreate(&mut green, desc, 0, flags) };
            assert_eq!(code.unwrap(), expected, "{version}, flags {flags}");
            if expected == OK {
                assert_eq!(client.destroy(green), OK);
            }
        }
        client.finish();
    }
}

#[test]
fn structured_splits_are_exact() {
    const BACKFILL: u32 = 1;
    for (spec, groups) in [
        ("rtx5090@13.1", [42, 42, 42, 44]),
        ("h200@13.1", [32, 32, 32, 36]),
        ("quad680@13.1", [170; 4]),
    ] {
        let client = Client::new(spec);
        let device = client.device_sms();
        let asked = groups.map(|sms| (sms, 8, BACKFILL));
        let (split, counts) = client.structured(&device, &asked, false).unwrap();
        assert_eq!(counts, groups);
        assert_eq!(
            split.rest.type_,
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_INVALID
        );
        let mut seen = Vec::new();
        for (group, size) in split.groups.iter().zip(groups) {
            assert_eq!(count(group), size);
            assert_eq!(sm(group).smCoscheduledAlignment, 8);
            assert_eq!(sm(group).flags, BACKFILL);
            let green = client.green(&[*group]).unwrap();
            let stream = client.stream(green);
            seen.extend(client.sm_ids(stream));
            unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
            assert_eq!(client.destroy(green), OK);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..count(&device)).collect::<Vec<_>>());

        // The last group takes what is there; a dry run only says how much.
        let mut asked = asked;
        asked[3].0 = 0;
        let (dry, counts) = client.structured(&device, &asked, true).unwrap();
        assert_eq!(counts, groups);
        assert_eq!(
            dry.groups[0].type_,
            CUdevResourceType::CU_DEV_RESOURCE_TYPE_INVALID
        );
        client.finish();
    }
}

#[test]
fn structured_splits_refuse_what_the_header_refuses() {
    let client = Client::new("h200@13.1");
    let device = client.device_sms();
    let code = |groups: &[_], dry| client.structured(&device, groups, dry).err();
    assert_eq!(code(&[(33, 8, 1)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(36, 8, 0)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(32, 34, 1)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(32, 8, 8)], false), Some(INVALID_VALUE));
    assert_eq!(code(&[(134, 8, 1)], false), Some(REFUSED));
    assert_eq!(code(&[(100, 8, 1), (40, 8, 1)], false), Some(REFUSED));
    // A group without one co-scheduled unit: found out in a dry run, refused otherwise.
    let all_then_more = [(0, 8, 0), (0, 8, 1)];
    assert_eq!(code(&all_then_more, false), Some(REFUSED));
    let (_, counts) = client.structured(&device, &all_then_more, true).unwrap();
    assert_eq!(counts, [120, 0]);
    client.finish();
}

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
        // A green context's own handle is no context before it was asked for one, and then it is the same.
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
    // A green context's memory stays taken after its end, for the next one.
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

fn pool(client: &Client, max_size: usize) -> CUmemoryPool {
    let mut props = CUmemPoolProps {
        allocType: CUmemAllocationType_enum::CU_MEM_ALLOCATION_TYPE_PINNED,
        maxSize: max_size,
        ..CUmemPoolProps::default()
    };
    props.location.type_ = CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE;
    let mut pool = ptr::null_mut();
    let code = unsafe { client.api.cuMemPoolCreate(&mut pool, &props) };
    assert_eq!(code.unwrap(), OK);
    pool
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
        (c"\x7fELF", CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU),
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
    // The freed address is an illegal one: the launch succeeds, and all else fails from then on.
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

/// Largest cluster, and clusters of 2, 4 and 8 that fit at 256 threads a block.
#[test]
fn clusters_as_measured() {
    let client = Client::new("h200@13.0");
    let (module, function) = client.function(c"custom");
    let device = client.device_sms();
    let by_8 = client.split(&device, 15, 0, 8).unwrap();
    let by_32 = client.split(&device, 4, 0, 32).unwrap();
    let by_2 = client.split(&device, 66, 1, 2).unwrap();
    let mut with_remainder = by_8.groups[..4].to_vec();
    with_remainder.push(by_8.rest);
    let cases = [
        (None, 8, [Some(528), Some(248), Some(124)]),
        (Some(&by_32.groups[..1]), 8, [Some(128), Some(56), Some(24)]),
        (Some(&by_8.groups[..4]), 8, [Some(128), Some(64), Some(32)]),
        (
            Some(&with_remainder[..]),
            8,
            [Some(176), Some(64), Some(32)],
        ),
        (Some(&by_2.groups[..16]), 2, [Some(128), None, None]),
        (Some(&by_2.groups[..21]), 2, [Some(168), None, None]),
    ];
    for (resources, largest, fitting) in cases {
        let green = resources.map(|resources| client.green(resources).unwrap());
        let stream = green.map_or(ptr::null_mut(), |green| client.stream(green));
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            ..Default::default()
        };
        let mut config = CUlaunchConfig {
            gridDimX: 8,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 256,
            blockDimY: 1,
            blockDimZ: 1,
            hStream: stream,
            ..Default::default()
        };
        let mut value = 0;
        let code = unsafe {
            client
                .api
                .cuOccupancyMaxPotentialClusterSize(&mut value, function, &config)
        };
        assert_eq!((code.unwrap(), value), (OK, largest));
        for (size, fits) in [2, 4, 8].into_iter().zip(fitting) {
            attribute.value.clusterDim.x = size;
            attribute.value.clusterDim.y = 1;
            attribute.value.clusterDim.z = 1;
            config.attrs = &mut attribute;
            config.numAttrs = 1;
            let launched = if fits.is_some() {
                OK
            } else {
                CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE
            };
            let mut address = 0_u64;
            let mut args: [*mut c_void; 1] = [(&raw mut address).cast()];
            unsafe {
                let code = client
                    .api
                    .cuOccupancyMaxActiveClusters(&mut value, function, &config);
                assert_eq!(code.unwrap(), OK);
                let code = client.api.cuLaunchKernelEx(
                    &config,
                    function,
                    args.as_mut_ptr(),
                    ptr::null_mut(),
                );
                assert_eq!(code.unwrap(), launched);
            }
            assert_eq!(value, fits.unwrap_or(0), "clusters of {size}");
        }
        if let Some(green) = green {
            unsafe { assert_eq!(client.api.cuStreamDestroy_v2(stream).unwrap(), OK) };
            assert_eq!(client.destroy(green), OK);
        }
    }
    unsafe { assert_eq!(client.api.cuModuleUnload(module).unwrap(), OK) };
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
        // Its end does not end the primary context; the next release does.
        assert_eq!(client.destroy(green), OK);
        assert_eq!(state(), 1);
        let mut again = ptr::null_mut();
        let code = client.api.cuDevicePrimaryCtxRetain(&mut again, 0).unwrap();
        assert_eq!((code, again), (OK, client.primary));
        assert_eq!(client.api.cuDevicePrimaryCtxRelease_v2(0).unwrap(), OK);
        assert_eq!(state(), 0);
        // It can still be made current, and is of no more use.
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

/// With a stream of its own, work needs no current context; making things does. As measured.
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

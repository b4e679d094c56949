//! The driver itself: versions and their functions, what comes before `cuInit`, devices, errors.

use std::ptr;

use crate::client::*;
use cuda_green_sim::{NOT_MODELLED, cuda_versions, profiles};
use cuda_green_sys::*;

#[test]
fn each_version_has_the_functions_that_it_had() {
    for version in cuda_versions() {
        let api = simulator(&format!("h200@{version}")).api().unwrap();
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

/// Several of each device at once, with each CUDA version, exist and can be queried.
#[test]
fn every_device_goes_with_every_version() {
    for device in profiles() {
        for version in cuda_versions() {
            let sim = simulator(&format!("3x{}@{version}", device.name));
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
                    assert_eq!(crate::client::count(&whole), device.sm_count);
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
    let sim = simulator("h200@12.5");
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
    let sim = simulator("h200@13.0");
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

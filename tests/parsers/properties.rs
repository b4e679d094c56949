//! Properties that hold for each parser and any input. Each function panics if one does not.
//!
//! Both `tests/parsers` (on stable, everywhere) and the targets in `fuzz/` (where there is time) call
//! these, so that what one looks for, the other does.

// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::panic)]

use std::ffi::{CString, OsStr};

use cuda_green_sim::{Injection, Sim};
use cuda_green_sys::{CUdevResource, CUdevResourceType, CUresult, CudaVersion, DriverSpec, Error};

/// A driver specification is taken to the byte, or refused for a reason that is true.
pub fn driver_spec(value: &OsStr) {
    let bytes = value.as_encoded_bytes();
    match DriverSpec::parse(value) {
        Ok(DriverSpec::System) => assert_eq!(bytes, b"system"),
        Ok(DriverSpec::Simulated(profile)) => {
            assert!(!profile.is_empty());
            assert_eq!([b"sim:", profile.as_bytes()].concat(), bytes);
        }
        Ok(DriverSpec::Path(path)) => {
            assert_eq!(path.as_os_str(), value);
            assert!(!bytes.is_empty() && !bytes.contains(&0));
        }
        Err(Error::InvalidSpec(text)) => {
            assert!(bytes.is_empty() || bytes == b"sim:" || bytes.contains(&0));
            // C code and logs cut a text off at its first zero byte.
            assert!(!Error::InvalidSpec(text).to_string().contains('\0'));
        }
        other => panic!("another kind: {other:?}"),
    }
    if let Some(text) = value.to_str() {
        let (parsed, from_str) = (DriverSpec::parse(value), text.parse::<DriverSpec>());
        assert_eq!(parsed.ok(), from_str.ok());
    }
}

/// A version that is taken is what the text says, and goes to text and to the driver's form and back.
pub fn version(text: &str) {
    let Ok(version) = text.parse::<CudaVersion>() else {
        return;
    };
    let (major, minor) = text.split_once('.').unwrap_or_default();
    assert_eq!(major.parse(), Ok(version.major()));
    assert_eq!(minor.parse(), Ok(version.minor()));
    assert_eq!(
        version.to_string().parse::<CudaVersion>().ok(),
        Some(version)
    );
    assert_eq!(CudaVersion::from_raw(version.to_raw()), version);
}

/// A driver may tell any number as its version. Two of them are ordered as their versions are, as long
/// as they are versions at all.
pub fn raw_version(one: i32, other: i32) {
    /// The largest that there can be: 65535.99.
    const LARGEST: i32 = 65_535_990;
    for raw in [one, other] {
        let version = CudaVersion::from_raw(raw);
        assert!(version.minor() <= 99);
        assert_eq!(CudaVersion::from_raw(version.to_raw()), version);
        if (0..=LARGEST).contains(&raw) {
            // The last digit is no part of the version.
            assert_eq!(version.to_raw(), raw - raw % 10);
        }
    }
    if one <= other && (0..=LARGEST).contains(&other) {
        assert!(CudaVersion::from_raw(one) <= CudaVersion::from_raw(other));
    }
}

/// A profile that is taken goes to text and back; one that is not is refused with words.
pub fn profile(text: &str) {
    match Sim::new(text) {
        Ok(sim) => {
            let written = sim.profile().to_string();
            match Sim::new(&written) {
                Ok(again) => assert_eq!(again.profile(), sim.profile()),
                Err(error) => panic!("{text:?} was written as {written:?}: {error}"),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A fault's text is refused, or goes to its written form and back.
pub fn injection(text: &str) {
    let Ok(injection) = text.parse::<Injection>() else {
        return;
    };
    let written = injection.to_string();
    assert_eq!(
        written.parse::<Injection>().ok(),
        Some(injection),
        "{text:?}: {written}"
    );
}

/// A file of a profile is refused, with a reason, or makes a driver whose device can be split.
pub fn profile_file(text: &str) {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("cuda-green-profile-{}.toml", std::process::id()));
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let made = Sim::new(path.to_str().unwrap_or_default());
    let simulator = match made {
        Ok(simulator) => simulator,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let device = simulator.profile().device;
    assert!(!device.device_name.chars().any(char::is_control));
    if simulator.profile().cuda_version < CudaVersion::new(12, 4) {
        return;
    }
    let Ok(api) = simulator.api() else {
        panic!("no table of functions: {text:?}");
    };
    let (mut whole, mut groups) = (CUdevResource::default(), 0);
    let sm = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    // SAFETY: the outputs are valid, and the input is the driver's own; a null result asks for the number alone.
    let codes = unsafe {
        [
            api.cuInit(0),
            api.cuDeviceGetDevResource(0, &mut whole, sm),
            api.cuDevSmResourceSplitByCount(
                std::ptr::null_mut(),
                &mut groups,
                &whole,
                std::ptr::null_mut(),
                0,
                1,
            ),
        ]
    };
    let good = codes
        .iter()
        .all(|code| matches!(code, Ok(CUresult::CUDA_SUCCESS)));
    assert!(good && groups > 0, "{text}: {codes:?}, {groups} groups");
}

/// A PTX text loads, or is refused with a code that is for that.
pub fn ptx(text: &str) {
    let Ok(text) = CString::new(text) else {
        return;
    };
    let Ok(simulator) = Sim::new("h200@13.0") else {
        panic!("no simulator");
    };
    let Ok(api) = simulator.api() else {
        panic!("no table of functions");
    };
    let (mut context, mut module) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the outputs are valid, and the text ends with a zero byte.
    let code = unsafe {
        let _ = (api.cuInit(0), api.cuDevicePrimaryCtxRetain(&mut context, 0));
        let _ = api.cuCtxSetCurrent(context);
        api.cuModuleLoadData(&mut module, text.as_ptr().cast())
    };
    let known = [
        CUresult::CUDA_SUCCESS,
        CUresult::CUDA_ERROR_INVALID_PTX,
        CUresult::CUDA_ERROR_INVALID_IMAGE,
        CUresult::CUDA_ERROR_INVALID_SOURCE,
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    ];
    assert!(
        code.is_ok_and(|code| known.contains(&code)),
        "{text:?}: {code:?}"
    );
    // SAFETY: nothing is current to nobody afterwards.
    let _ = unsafe { api.cuCtxSetCurrent(std::ptr::null_mut()) };
}

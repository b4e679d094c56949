//! What must hold of each parser whatever it is given. Each function panics where it does not.
//!
//! Both `tests/parsers` (on stable, everywhere) and the targets in `fuzz/` (where there is time) call
//! these, so that what one looks for, the other does.

// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::panic)]

use std::ffi::OsStr;

use cuda_green_sim::Sim;
use cuda_green_sys::{CudaVersion, DriverSpec, Error};

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

//! Fuzzes the value of `CUDA_GREEN_DRIVER`.

#![no_main]

#[allow(dead_code)] // each target calls one of them
#[path = "../../tests/parsers/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::driver_spec(std::os::unix::ffi::OsStrExt::from_bytes(bytes)));

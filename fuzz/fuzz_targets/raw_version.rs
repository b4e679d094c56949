//! Fuzzes the number that a driver reports as its version.

#![no_main]

#[allow(dead_code)] // each target calls one of them
#[path = "../../tests/parsers/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|numbers: (i32, i32)| properties::raw_version(numbers.0, numbers.1));

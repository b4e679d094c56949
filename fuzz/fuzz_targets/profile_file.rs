//! Fuzzes the file of a simulated driver's profile.

#![no_main]

#[allow(dead_code)] // each target calls one of them
#[path = "../../tests/parsers/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::profile_file(text));

//! Fuzzes the PTX that the simulator reads.

#![no_main]

#[allow(dead_code)] // each target calls one of them
#[path = "../../tests/parsers/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::ptx(text));

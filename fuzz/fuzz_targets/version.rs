//! Fuzzes the text of a CUDA version.

#![no_main]

#[allow(dead_code)] // each target calls one of them
#[path = "../../tests/parsers/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::version(text));

//! Fuzzes the text of a fault.

#![no_main]

#[allow(dead_code)] // each target calls one of them
#[path = "../../tests/parsers/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::injection(text));

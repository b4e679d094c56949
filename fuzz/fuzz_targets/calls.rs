//! Fuzzes the simulated driver with calls of every entry point.

#![no_main]

#[path = "../../cuda-green-sim/tests/random/mod.rs"]
mod random;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The first byte says which driver.
    let profiles = ["h200@13.0", "2xh200@13.0", "t4@11.4", "h200@12.4", "rtx5090@13.1", "b200@newest"];
    if let Some((first, rest)) = bytes.split_first() {
        random::calls(profiles[usize::from(*first) % profiles.len()], rest);
    }
});

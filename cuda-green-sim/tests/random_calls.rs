//! Random calls of every entry point: each gets an answer, whatever its arguments are. The fuzz target `calls` makes
//! such calls for longer.
//!
//! A test binary of its own, because AddressSanitizer runs it alone, with more cases (`xtask/src/safety.rs`).

mod random;

use std::collections::BTreeSet;

use cuda_green_sim::NOT_MODELLED;
use cuda_green_sys::ENTRY_POINTS;
use proptest::prelude::*;

/// Profiles of every step of the API, and one with two devices.
const PROFILES: &[&str] = &[
    "t4@11.4",
    "h200@12.4",
    "h200@13.0",
    "2xh200@13.0",
    "rtx5090@13.1",
    "b200@newest",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..3_000)
}

proptest! {
    #[test]
    fn each_call_has_an_answer(profile in proptest::sample::select(PROFILES), bytes in bytes()) {
        random::calls(profile, &bytes);
    }

    #[test]
    fn calls_of_several_threads_have_answers(bytes in proptest::collection::vec(bytes(), 3)) {
        random::calls_of_threads("h200@13.0", &bytes);
    }
}

/// The random calls are not all refused: of every function, some calls succeed.
#[test]
fn each_function_succeeds_at_times() {
    let mut state = 1_u64;
    let mut bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    let mut succeeded = BTreeSet::new();
    for _ in 0..150 {
        let bytes: Vec<u8> = bytes.by_ref().take(20_000).collect();
        succeeded.extend(random::calls("2xh200@newest", &bytes));
    }
    let never: Vec<&str> = ENTRY_POINTS
        .iter()
        .map(|entry| entry.name())
        // Simulated devices are not peers.
        .filter(|name| !name.ends_with("ablePeerAccess") && !NOT_MODELLED.contains(name))
        .filter(|name| !succeeded.contains(name))
        .collect();
    assert!(never.is_empty(), "{never:?}");
}

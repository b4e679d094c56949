//! Every parser against every kind of text: the properties, and the texts that are likely to break them.

mod properties;

use std::ffi::OsString;

use proptest::prelude::*;

/// Any bytes, where the system allows a name of any bytes.
#[cfg(unix)]
fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn os_string(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// Texts that are almost right, which random ones never are.
fn nearly(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        6 => proptest::sample::select(words).prop_map(str::to_owned),
        3 => (0_u64..200_000).prop_map(|number| number.to_string()),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(word, 0..7).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn driver_specifications(bytes: Vec<u8>, text: String) {
        properties::driver_spec(&os_string(bytes));
        properties::driver_spec(text.as_ref());
    }

    #[test]
    fn driver_specifications_that_are_nearly_right(
        text in nearly(&["system", "sim:", "h200", "@", "13.0", "/", "\0", " ", "libcuda.so.1", "SIM:"]),
        bytes: Vec<u8>,
    ) {
        properties::driver_spec(text.as_ref());
        properties::driver_spec(&os_string([text.into_bytes(), bytes].concat()));
    }

    #[test]
    fn versions(text: String) {
        properties::version(&text);
    }

    #[test]
    fn versions_that_are_nearly_right(
        text in nearly(&[".", "12", "4", "0", "00", "65535", "65536", "99", "100", "+", "-", "１"]),
    ) {
        properties::version(&text);
    }

    #[test]
    fn numbers_of_a_driver(one: i32, other: i32, near in -20_000..70_000_000_i32) {
        properties::raw_version(one, other);
        properties::raw_version(near, near.saturating_add(other % 2_000));
    }

    #[test]
    fn profiles(text: String) {
        properties::profile(&text);
    }

    #[test]
    fn profiles_that_are_nearly_right(
        text in nearly(&["h200", "rtx5090", "quad680", "x", "@", "2", "16", "17", "0", "13", "12.4", "13.0", "."]),
    ) {
        properties::profile(&text);
    }
}

#[test]
fn a_zero_byte_is_refused_in_every_encoding() {
    properties::driver_spec(&os_string(vec![b'/', 0xff, 0, b'a']));
    properties::driver_spec(&os_string(vec![0]));
}

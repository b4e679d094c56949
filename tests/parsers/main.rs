//! Every parser against every kind of text: the properties, and the texts that are likely to break them.

#![allow(clippy::unwrap_used)] // these are tests

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

/// Small numbers, powers of two, and the largest.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..20,
        2 => (0_u32..8).prop_map(|bits| 1 << bits),
        2 => 0_u64..300,
        1 => Just(u64::from(u32::MAX)),
        1 => any::<u64>(),
    ]
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

    #[test]
    fn faults_that_are_nearly_right(
        text in nearly(&["cuInit", "cuMemAlloc", "*", "green", "device0", "memory", "mps", "#", "+", "=", "lost", "everywhere", "2", "5ms", "%", "75"]),
    ) {
        properties::injection(&text);
    }

    #[test]
    fn ptx_that_is_nearly_right(
        text in nearly(&[".entry ", "k", "(", ")", ".param ", ".b8 ", ".u64 ", "a", "[", "]", "{", "}", " ret;", ",", "4096", "\n"]),
        plain: String,
    ) {
        properties::ptx(&plain);
        properties::ptx(&format!(".version 8.0\n.target sm_70\n.address_size 64\n{text}"));
    }

    #[test]
    fn files_of_profiles_that_are_nearly_right(
        sms in number(),
        alignment in proptest::option::of(number()),
        smallest in proptest::option::of(number()),
        topology in proptest::option::of(proptest::collection::vec((number(), number()), 0..4)),
        devices in proptest::option::of(number()),
        name in "[a-z\u{1b}\n]{1,4}",
    ) {
        let line = |name: &str, value: Option<u64>| value.map_or_else(String::new, |value| format!("{name} = {value}\n"));
        let topology = topology.map_or_else(String::new, |groups| {
            let groups: Vec<String> = groups.iter().map(|(count, size)| format!("[{count}, {size}]")).collect();
            format!("topology = [{}]\n", groups.join(", "))
        });
        properties::profile_file(&format!(
            "cuda_version = \"13.1\"\n{}[device]\nname = \"own\"\ndevice_name = {name:?}\ncompute_capability = \"9.0\"\n\
             sm_count = {sms}\nmemory_mib = 1024\n{}{}{topology}",
            line("device_count", devices),
            line("sm_coscheduled_alignment", alignment),
            line("min_sm_partition_size", smallest),
        ));
    }
}

/// Sums that wrap, groups of odd SMs, and what a terminal would obey.
#[test]
fn files_of_profiles_that_were_taken_once() {
    let file = |device: &str| {
        format!(
            "cuda_version = \"13.0\"\n[device]\nname = \"own\"\ncompute_capability = \"9.0\"\nsm_count = 132\nmemory_mib = 1024\n{device}"
        )
    };
    for device in [
        "topology = [[4294967295, 4294967295], [2, 4294967295], [1, 133]]",
        "topology = [[44, 3]]",
        "topology = [[66, 2]]",
        "device_name = \"a\\u001b[2Jb\"",
    ] {
        properties::profile_file(&file(device));
        let path =
            std::env::temp_dir().join(format!("cuda-green-wrong-{}.toml", std::process::id()));
        std::fs::write(&path, file(device)).unwrap();
        let refused = cuda_green_sim::Sim::new(path.to_str().unwrap());
        assert!(refused.is_err(), "{device}");
    }
}

#[test]
fn a_zero_byte_is_refused_in_every_encoding() {
    properties::driver_spec(&os_string(vec![b'/', 0xff, 0, b'a']));
    properties::driver_spec(&os_string(vec![0]));
}

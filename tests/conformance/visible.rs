//! `CUDA_VISIBLE_DEVICES`: the devices of a process that has the variable, and their order.
//!
//! A real driver reads the variable once, so each list is put to it in a process of its own.

use std::process::{Command, ExitCode};

use cuda_green::sim::Sim;
use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, call, must, say},
};

pub const CASES: &[Case] = &[Case::new("driver/visible_devices", lists).devices(2)];

/// In a process of its own: to say which devices there are, and nothing else.
pub const CHILD: &str = "CUDA_GREEN_TEST_VISIBLE";

/// Lists by ordinal.
const LISTS: &[&str] = &[
    "",
    "0",
    "1",
    "0,1",
    "1,0",
    "0,0",
    "0,1,0",
    "-1",
    "-0",
    "0,-1,1",
    "0,5,1",
    "5",
    "2",
    "all",
    "NoDevFiles",
    " 0 , 1 ",
    " 1",
    "1 ",
    "\t1",
    "1\n,0",
    "0 1",
    "0x1",
    "+1",
    "01",
    "1abc",
    "1.5",
    ",0",
    "0,",
    "0,,1",
    "0;1",
    "4294967297",
    "99999999999999999999",
    "'1'",
    "junk,0",
    "1,junk,0",
    "GPU-",
    "GPU",
    "MIG-0",
];

fn lists(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [first, second] = [0, 1].map(|ordinal| uuid(gpu.api, ordinal));
    let mut devices = |name: &str, list: &str| {
        let answer = match gpu.profile {
            Some(profile) => {
                let simulator = Sim::with_visible(profile, Some(list)).unwrap();
                answer(&simulator.api().unwrap())
            }
            None => in_a_child(list),
        };
        let answer = answer
            .replace(&first, "the first")
            .replace(&second, "the second");
        seen.note(name, answer);
    };
    for list in LISTS {
        devices(&format!("{list:?}"), list);
    }
    let [one, two] = [&first, &second].map(|uuid| format!("GPU-{uuid}"));
    // As few digits as tell the two apart.
    let differ = first
        .bytes()
        .zip(second.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let hyphens = |digits: &str| {
        let cut = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
        format!("GPU-{}", cut.join("-"))
    };
    for (name, list) in [
        ("a UUID", hyphens(&second)),
        ("a UUID without hyphens", two.clone()),
        (
            "a UUID in capitals",
            format!("GPU-{}", second.to_uppercase()),
        ),
        ("a UUID after a small gpu", format!("gpu-{second}")),
        ("a UUID after a space", format!(" {two}")),
        ("a UUID and more", format!("{two}0")),
        ("the beginning of a UUID", two[..4 + differ + 1].to_owned()),
        ("a UUID of no device", format!("GPU-{}", "0".repeat(32))),
        (
            "two UUIDs",
            format!("{},{}", hyphens(&second), hyphens(&first)),
        ),
        ("a UUID twice", format!("{one},{one}")),
        ("an ordinal and a UUID", format!("0,{two}")),
        ("a UUID and an ordinal", format!("{two},0")),
    ] {
        devices(name, &list);
    }
}

/// The digits of a device's UUID.
fn uuid(api: &Api, ordinal: i32) -> String {
    let (gpu, mut device, mut uuid) = (Gpu::bare(api), 0, CUuuid { bytes: [0; 16] });
    must(call!(gpu, cuDeviceGet(&mut device, ordinal)));
    must(call!(gpu, cuDeviceGetUuid_v2(&mut uuid, device)));
    uuid.bytes
        .map(|byte| format!("{:02x}", byte as u8))
        .concat()
}

/// What `cuInit` says, and the UUIDs of the devices, or what the driver says when asked for their number.
fn answer(api: &Api) -> String {
    let (gpu, mut count) = (Gpu::bare(api), 0);
    let init = say(call!(gpu, cuInit(0)));
    let code = say(call!(gpu, cuDeviceGetCount(&mut count)));
    let uuids: Vec<String> = (0..count).map(|ordinal| uuid(api, ordinal)).collect();
    match uuids.is_empty() {
        true => format!("cuInit {init}, then cuDeviceGetCount {code}"),
        false => format!("cuInit {init}: {}", uuids.join(", ")),
    }
}

fn in_a_child(list: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .env("CUDA_VISIBLE_DEVICES", list)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the child ended with {}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The whole of such a process.
pub fn child() -> ExitCode {
    let Ok(driver) = crate::open() else {
        return ExitCode::FAILURE;
    };
    print!("{}", answer(driver.api()));
    ExitCode::SUCCESS
}

//! Devices defined by the user in a TOML file.

use std::{fs, path::PathBuf};

use cuda_green_sim::{Error, Sim};

use crate::client::{Client, count};

fn written(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}

/// The README's example can be split like any device.
#[test]
fn the_readmes_device_can_be_partitioned() {
    let readme = include_str!("../../README.md");
    let text = readme.split("```toml\n").nth(1).unwrap();
    let path = written("readme.toml", text.split("```").next().unwrap());
    let client = Client::new(path.to_str().unwrap());
    let device = &client.sim.profile().device;
    assert_eq!(
        (device.device_name, device.source),
        ("My GPU", "its data sheet")
    );
    let whole = client.device_sms();
    assert_eq!(count(&whole), 96);
    let split = client.split(&whole, 3, 0, 32).unwrap();
    assert_eq!(split.groups.iter().map(count).sum::<u32>(), 96);
    client.finish();
}

#[test]
fn a_mistake_is_told_with_file_and_line() {
    let path = written("bad.toml", "cuda_version = \"13.0\"\n[device]\nname = 5\n");
    let error = Sim::new(path.to_str().unwrap()).unwrap_err();
    assert!(matches!(error, Error::InvalidProfile { line: Some(3), .. }));
    let text = error.to_string();
    assert!(text.contains("bad.toml, line 3: "), "{text}");
    let missing = Sim::new("no/such/file.toml").unwrap_err().to_string();
    assert!(missing.contains("no/such/file.toml: "), "{missing}");
}

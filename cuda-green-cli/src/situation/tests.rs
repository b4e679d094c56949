//! Facts of made-up machines, whose files are under a folder.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::io::ErrorKind;

use super::*;

/// Looks at a machine of these files, whose existing device files open as `open` says.
fn machine(
    files: &[(&str, &str)],
    variables: &[(&str, &str)],
    open: impl Fn(&str) -> io::Result<()>,
) -> Situation {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let variable = |name: &str| {
        let found = variables.iter().find(|(one, _)| *one == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Situation::under(root.path(), variable, |path| {
        fs::metadata(path)?;
        open(path.file_name().unwrap().to_str().unwrap())
    })
}

fn opens(_: &str) -> io::Result<()> {
    Ok(())
}

#[test]
fn an_empty_machine_has_nothing() {
    let found = machine(&[], &[], opens);
    assert_eq!(found.container, None);
    assert_eq!((found.wsl, found.gpus_on_bus), (false, None));
    assert_eq!((found.kernel_module, found.cuda_library), (None, None));
    let missing = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"];
    assert_eq!(
        found.device_files,
        missing.map(|path| (path.to_owned(), FileState::Missing))
    );
}

#[test]
fn the_version_of_either_kernel_module_is_read() {
    for line in [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Sat Nov 1 00:00:00 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (u@h)",
    ] {
        let text = format!("{line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n");
        let found = machine(&[("proc/driver/nvidia/version", &text)], &[], opens);
        assert_eq!(found.kernel_module.as_deref(), Some("580.159.04"));
    }
    let found = machine(&[("proc/driver/nvidia/version", "?")], &[], opens);
    assert_eq!(
        found.kernel_module.as_deref(),
        Some("of an unknown version")
    );
}

#[test]
fn each_sign_of_a_container_is_known() {
    for (file, content) in [
        (".dockerenv", ""),
        ("run/.containerenv", ""),
        ("run/systemd/container", "lxc"),
        ("proc/1/cgroup", "0::/kubepods.slice/pod1"),
    ] {
        let found = machine(&[(file, content)], &[], opens);
        assert_eq!(found.container, Some(format!("/{file}")));
    }
    let found = machine(&[("proc/1/cgroup", "0::/init.scope")], &[], opens);
    assert_eq!(found.container, None);
    let found = machine(&[], &[("container", "podman")], opens);
    assert_eq!(found.container.as_deref(), Some("the variable container"));
}

#[test]
fn only_gpus_of_nvidia_are_counted() {
    let device = |vendor, class| [("vendor", vendor), ("class", class)];
    let mut files = Vec::new();
    for (slot, lines) in [
        ("0", device("0x10de\n", "0x030200\n")), // a GPU for computing
        ("1", device("0x10de\n", "0x030000\n")), // one for display
        ("2", device("0x10de\n", "0x040300\n")), // its sound
        ("3", device("0x10de\n", "0x068000\n")), // an NVSwitch
        ("4", device("0x8086\n", "0x030000\n")), // another's
    ] {
        for (file, text) in lines {
            files.push((format!("sys/bus/pci/devices/{slot}/{file}"), text));
        }
    }
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), *text))
        .collect();
    assert_eq!(machine(&files, &[], opens).gpus_on_bus, Some(2));
}

#[test]
fn libraries_are_found_where_drivers_put_them() {
    let found = machine(
        &[
            ("usr/local/nvidia/lib64/libcuda.so.1", ""),
            ("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", ""),
        ],
        &[],
        opens,
    );
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(
        found.cuda_library,
        path("/usr/local/nvidia/lib64/libcuda.so.1")
    );
    assert_eq!(
        found.management_library,
        path("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
    );
}

#[test]
fn what_comes_of_opening_device_files_is_told_apart() {
    let files = [
        ("dev/nvidiactl", ""),
        ("dev/nvidia-uvm", ""),
        ("dev/nvidia3", ""),
        ("dev/nvidia12", ""),
        ("dev/nvidia-modeset", ""),
    ];
    let found = machine(&files, &[], |name| match name {
        "nvidiactl" => Err(ErrorKind::PermissionDenied.into()), // as EACCES is
        "nvidia-uvm" => Err(io::Error::from_raw_os_error(1)),
        "nvidia3" => Err(io::Error::from_raw_os_error(6)),
        _ => Ok(()),
    });
    let expected = [
        ("/dev/nvidiactl", FileState::Denied { group: None }),
        ("/dev/nvidia-uvm", FileState::Forbidden),
        (
            "/dev/nvidia3",
            FileState::Dead("No such device or address".into()),
        ),
        ("/dev/nvidia12", FileState::Opens),
    ];
    assert_eq!(
        found.device_files,
        expected.map(|(path, state)| (path.to_owned(), state))
    );
    let json = found.json();
    assert_eq!(json["device_files"]["/dev/nvidia12"], "opens");
    assert_eq!(
        json["device_files"]["/dev/nvidia3"],
        "No such device or address"
    );
}

#[test]
#[cfg(unix)]
fn the_group_that_is_let_in_is_named() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "").unwrap();
    // Root may give the file away; anyone else has it in a group of theirs.
    let _ = std::os::unix::fs::chown(&path, None, Some(4711));
    let group = fs::metadata(&path).unwrap().gid();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    let groups = format!("root:x:0:\nvideo:x:{group}:me\n");
    fs::write(root.path().join("etc/group"), groups).unwrap();
    let let_in = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        group_let_in(root.path(), &path)
    };
    assert_eq!(let_in(0o660).as_deref(), Some("video"));
    assert_eq!(let_in(0o600), None);
    assert_eq!(let_in(0o640), None);
    fs::write(root.path().join("etc/group"), "").unwrap();
    assert_eq!(let_in(0o660), Some(group.to_string()));
}

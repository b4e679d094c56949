//! Advice for a driver that sees no GPU.

use super::*;

#[test]
fn without_a_kernel_module_no_device_file_is_blamed() {
    let dead = || Situation {
        kernel_module: None,
        device_files: files([
            FileState::Dead("No such device or address".into()),
            FileState::Missing,
            FileState::Missing,
        ]),
        ..healthy()
    };
    let no = ["/dev/nvidia", "nvidia-modprobe", "single-context"];
    says(
        &no_gpu(12, 4),
        &dead(),
        &["modprobe nvidia", "sim:h200"],
        &no,
    );
    let bare = Situation {
        gpus_on_bus: Some(0),
        ..dead()
    };
    says(
        &no_gpu(12, 4),
        &bare,
        &["no NVIDIA GPU on the PCI bus"],
        &["modprobe nvidia"],
    );
    let said = ["been given no GPU", CONTAINER];
    says(
        &no_gpu(12, 4),
        &container(dead()),
        &said,
        &["modprobe", "VISIBLE"],
    );
    let none = with(container(dead()), &[("NVIDIA_VISIBLE_DEVICES", "none")]);
    says(&no_gpu(12, 4), &none, &["asks for none"], &[]);
}

#[test]
fn an_old_driver_is_told_even_without_a_gpu() {
    says(
        &no_gpu(11, 4),
        &healthy(),
        &["speaks CUDA 11.4", "branch 550"],
        &[],
    );
    says(&no_gpu(12, 2), &healthy(), &["single-context"], &[]);
    says(&no_gpu(12, 4), &healthy(), &[], &["single-context", "550"]);
}

#[test]
fn device_files_that_cannot_be_used_are_named() {
    use FileState::{Dead, Denied, Forbidden, Missing, Opens};
    let machine = |states| Situation {
        device_files: files(states),
        ..healthy()
    };
    let errors = [no_gpu(13, 0), code(CUresult::CUDA_ERROR_UNKNOWN)];
    for error in errors {
        let missing = machine([Opens, Missing, Missing]);
        let said = [
            "/dev/nvidia-uvm, /dev/nvidia0: missing",
            "nvidia-modprobe -c 0 -u",
        ];
        says(&error, &missing, &said, &[CONTAINER, "nvidiactl", "denied"]);
        let inside = container(missing);
        says(
            &error,
            &inside,
            &["missing in this container", CONTAINER],
            &["modprobe"],
        );

        let group = Some("video".to_owned());
        let denied = machine([Denied { group }, Opens, Denied { group: None }]);
        let said = [
            "/dev/nvidiactl, /dev/nvidia0: permission denied",
            "usermod -aG video",
        ];
        says(&error, &denied, &said, &["missing", "nvidia-uvm"]);
        let denied = machine([Denied { group: None }, Opens, Opens]);
        says(&error, &denied, &["NVreg_DeviceFileMode"], &["usermod"]);

        let forbidden = machine([Opens, Opens, Forbidden]);
        says(
            &error,
            &forbidden,
            &["/dev/nvidia0: not permitted", CONTAINER],
            &["denied"],
        );
        let dead = machine([Opens, Opens, Dead("Input/output error".into())]);
        says(
            &error,
            &dead,
            &["/dev/nvidia0: Input/output error", "dmesg"],
            &["missing"],
        );
    }
}

#[test]
fn a_healthy_machine_is_not_accused() {
    let no = [
        "missing",
        "denied",
        "CUDA_VISIBLE_DEVICES",
        CONTAINER,
        "mismatch",
        "is not loaded",
    ];
    says(
        &no_gpu(13, 0),
        &healthy(),
        &["nvidia-smi", "dmesg", "MIG"],
        &no,
    );
    says(
        &code(CUresult::CUDA_ERROR_UNKNOWN),
        &healthy(),
        &["dmesg"],
        &no,
    );
    assert!(advice(&Error::ContextIsCurrent, &healthy()).is_empty());
}

#[test]
fn hidden_devices_are_told_from_wrong_ones() {
    for value in ["", "-1", "NoDevFiles", "-1,0", " "] {
        let hidden = with(healthy(), &[("CUDA_VISIBLE_DEVICES", value)]);
        let said = format!("CUDA_VISIBLE_DEVICES is `{value}`, which names no device");
        says(&no_gpu(13, 0), &hidden, &[&said], &["dmesg"]);
    }
    for value in ["7", "0,9", "GPU-8932f937", "MIG-1"] {
        let wrong = with(healthy(), &[("CUDA_VISIBLE_DEVICES", value)]);
        says(
            &no_gpu(13, 0),
            &wrong,
            &["only these are seen"],
            &["names no device"],
        );
    }
    let invalid = code(CUresult::CUDA_ERROR_INVALID_DEVICE);
    let twice = with(healthy(), &[("CUDA_VISIBLE_DEVICES", "0, 1,0")]);
    says(&invalid, &twice, &["names a device twice"], &["dmesg"]);
    let once = with(healthy(), &[("CUDA_VISIBLE_DEVICES", "0,1")]);
    says(&invalid, &once, &["only these are seen"], &["twice"]);
    let error = Error::NoSuchDevice { asked: 1, count: 1 };
    says(
        &error,
        &healthy(),
        &["info --json"],
        &["CUDA_VISIBLE_DEVICES"],
    );
    let chosen = with(healthy(), &[("CUDA_VISIBLE_DEVICES", "0")]);
    says(&error, &chosen, &["CUDA_VISIBLE_DEVICES is `0`"], &[]);
}

//! Advice for codes of the driver.

use super::*;

#[test]
fn versions_that_differ_are_both_named() {
    let mismatch = code(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
    let newer = || Situation {
        loaded: Some("/usr/lib/libcuda.so.590.10".into()),
        ..healthy()
    };
    let said = [
        "module is 580.159.04",
        "library is 590.10",
        "restart the machine",
    ];
    says(&mismatch, &newer(), &said, &["image"]);
    says(
        &mismatch,
        &container(newer()),
        &["590.10", "in the image"],
        &["restart"],
    );
    says(&no_gpu(13, 0), &newer(), &said, &["dmesg"]);
    let compat = Situation {
        loaded: Some("/usr/local/cuda/compat/libcuda.so.590.10".into()),
        ..healthy()
    };
    says(&no_gpu(13, 0), &compat, &["dmesg"], &["590.10"]);
    // Without the versions, nothing is said of them.
    let unknown = Situation {
        loaded: Some("/opt/libcuda.so.1".into()),
        ..healthy()
    };
    says(
        &mismatch,
        &unknown,
        &["restart the machine"],
        &["580", "/opt"],
    );
}

#[test]
fn codes_of_the_driver_say_what_they_ask_for() {
    let compat = Situation {
        loaded: Some("/usr/local/cuda/compat/libcuda.so.590.10".into()),
        ..healthy()
    };
    for (code_, said) in [
        (
            CUresult::CUDA_ERROR_STUB_LIBRARY,
            ["/compat/", "for linking only"],
        ),
        (
            CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
            ["/compat/", "cuda-compat"],
        ),
        (
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
            ["compute mode", "nvidia-smi -c DEFAULT"],
        ),
        (
            CUresult::CUDA_ERROR_SYSTEM_NOT_READY,
            ["fabric manager", "systemctl"],
        ),
        (
            CUresult::CUDA_ERROR_FABRIC_NOT_READY,
            ["Try again", "CUDA_FABRIC_INIT_TIMEOUT_MS"],
        ),
        (
            CUresult::CUDA_ERROR_DEVICE_NOT_LICENSED,
            ["licence", "nvidia-smi -q"],
        ),
        (CUresult::CUDA_ERROR_OUT_OF_MEMORY, ["nvidia-smi", "memory"]),
        (
            CUresult::CUDA_ERROR_MPS_CONNECTION_FAILED,
            ["/tmp/nvidia-mps", "server.log"],
        ),
        (
            CUresult::CUDA_ERROR_MPS_MAX_CLIENTS_REACHED,
            ["/var/log/nvidia-mps", "echo quit"],
        ),
    ] {
        says(&code(code_), &compat, &said, &["missing", CONTAINER]);
    }
    let elsewhere = with(healthy(), &[("CUDA_MPS_PIPE_DIRECTORY", "/run/mps")]);
    let gone = code(CUresult::CUDA_ERROR_MPS_CONNECTION_FAILED);
    says(&gone, &elsewhere, &["expected in /run/mps"], &["/tmp"]);
    assert!(advice(&code(CUresult::CUDA_ERROR_INVALID_VALUE), &healthy()).is_empty());
}

//! Advice for a code of the driver.

use cuda_green::CUresult;

use super::gpu::{files, invalid_device, mismatch, no_gpu, same_version};
use crate::situation::Situation;

/// Returns advice for a code of the driver.
pub(super) fn of_code(code: CUresult, situation: &Situation) -> Vec<String> {
    let loaded = || match &situation.loaded {
        Some(path) => format!(" ({})", path.display()),
        None => String::new(),
    };
    let one = |text: String| vec![text];
    match code {
        CUresult::CUDA_ERROR_NO_DEVICE => no_gpu(situation),
        CUresult::CUDA_ERROR_INVALID_DEVICE => invalid_device(situation),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => one(
            "`nvidia-smi` lists the processes that hold the device's memory.".into(),
        ),
        CUresult::CUDA_ERROR_STUB_LIBRARY => one(format!(
            "The library{} is a stub, for linking only: take its folder out of LD_LIBRARY_PATH.",
            loaded()
        )),
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => one(
            "Its compute mode may be exclusive or prohibited: `nvidia-smi -q -d COMPUTE` shows it, `nvidia-smi` \
             lists the process that has it, and `sudo nvidia-smi -c DEFAULT` lets several in."
                .into(),
        ),
        CUresult::CUDA_ERROR_DEVICE_NOT_LICENSED => one(
            "This virtual GPU needs a licence: `nvidia-smi -q` shows the licence's state.".into(),
        ),
        CUresult::CUDA_ERROR_OPERATING_SYSTEM
        | CUresult::CUDA_ERROR_NOT_PERMITTED
        | CUresult::CUDA_ERROR_UNKNOWN => {
            let mut advice: Vec<String> = mismatch(situation).into_iter().collect();
            advice.extend(files(situation));
            if advice.is_empty() {
                advice.push("`sudo dmesg | grep -i nvrm` shows the kernel module's messages.".into());
            }
            advice
        }
        CUresult::CUDA_ERROR_SYSTEM_NOT_READY => one(
            "A service that the driver needs is not running. On machines with NVSwitch that is the fabric \
             manager: `systemctl status nvidia-fabricmanager`."
                .into(),
        ),
        CUresult::CUDA_ERROR_FABRIC_NOT_READY => {
            one("Try again in a while; CUDA_FABRIC_INIT_TIMEOUT_MS lets the driver wait longer.".into())
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => one(
            mismatch(situation).unwrap_or_else(|| same_version(situation).to_owned()),
        ),
        CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => one(format!(
            "The library{} is newer than the kernel module and relies on forward compatibility, which only some GPUs have, mainly those of data centres. Remove the package cuda-compat, or take its \
             folder out of LD_LIBRARY_PATH, so that the driver's own libcuda.so.1 is found.",
            loaded()
        )),
        CUresult(805..=810) => one(multi_process_service(situation)),
        _ => Vec::new(),
    }
}

fn multi_process_service(situation: &Situation) -> String {
    let pipe = situation
        .variable("CUDA_MPS_PIPE_DIRECTORY")
        .unwrap_or("/tmp/nvidia-mps");
    let log = situation
        .variable("CUDA_MPS_LOG_DIRECTORY")
        .unwrap_or("/var/log/nvidia-mps");
    format!(
        "MPS, which is expected in {pipe}, does not serve this process; {log}/control.log and server.log \
         say why. `echo quit | nvidia-cuda-mps-control` stops MPS, and `nvidia-cuda-mps-control -d` starts it."
    )
}

//! A forked child of a process that had initialised CUDA: what each call answers there.

use std::{ffi::c_int, io::Read as _, os::fd::AsRawFd as _, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, call, must, say},
};

pub const CASES: &[Case] = &[Case::new("forks/calls_of_a_child", calls)];

/// What one call says in a child of its own, which does nothing else. No lock of the parent's other threads must be
/// needed for that.
fn in_a_child(run: impl FnOnce() -> CUresult) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    // The child makes one call, writes its code and ends without running anything of the parent's.
    match unsafe { libc::fork() } {
        0 => {
            unsafe { libc::alarm(20) };
            let code = run().0.to_ne_bytes();
            let to = writer.as_raw_fd();
            let written = unsafe { libc::write(to, code.as_ptr().cast(), code.len()) };
            unsafe { libc::_exit(c_int::from(written != 4)) };
        }
        child => {
            assert!(child > 0, "it cannot be forked");
            drop(writer);
            let mut code = Vec::new();
            let read = reader.read_to_end(&mut code);
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            read.unwrap();
            match <[u8; 4]>::try_from(code) {
                Ok(code) if status == 0 => say(cudaError_enum(u32::from_ne_bytes(code))),
                _ if libc::WIFSIGNALED(status) => {
                    format!("ended by signal {}", libc::WTERMSIG(status))
                }
                _ => format!("ended with {}", libc::WEXITSTATUS(status)),
            }
        }
    }
}

fn calls(gpu: &Gpu<'_>, seen: &mut Seen) {
    let event = gpu.event(2);
    let mut each = |name: &str, run: &dyn Fn() -> CUresult| seen.note(name, in_a_child(run));
    each("cuDriverGetVersion", &|| {
        call!(gpu, cuDriverGetVersion(&mut 0))
    });
    each("cuGetErrorName", &|| {
        let name = &mut ptr::null();
        call!(
            gpu,
            cuGetErrorName(CUresult::CUDA_ERROR_INVALID_VALUE, name)
        )
    });
    each("cuGetErrorString", &|| {
        let text = &mut ptr::null();
        call!(
            gpu,
            cuGetErrorString(CUresult::CUDA_ERROR_INVALID_VALUE, text)
        )
    });
    each("cuThreadExchangeStreamCaptureMode", &|| {
        call!(
            gpu,
            cuThreadExchangeStreamCaptureMode(&mut CUstreamCaptureMode_enum(2))
        )
    });
    each("cuInit", &|| call!(gpu, cuInit(0)));
    each("cuInit of wrong flags", &|| call!(gpu, cuInit(1)));
    each("cuDeviceGetCount", &|| call!(gpu, cuDeviceGetCount(&mut 0)));
    each("cuDeviceGet", &|| call!(gpu, cuDeviceGet(&mut 0, 0)));
    each("cuDeviceTotalMem", &|| {
        call!(gpu, cuDeviceTotalMem_v2(&mut 0, gpu.device))
    });
    each("cuCtxGetCurrent", &|| {
        call!(gpu, cuCtxGetCurrent(&mut ptr::null_mut()))
    });
    each("cuCtxSetCurrent", &|| {
        call!(gpu, cuCtxSetCurrent(gpu.primary))
    });
    each("cuCtxSynchronize", &|| call!(gpu, cuCtxSynchronize()));
    each("cuMemGetInfo", &|| {
        call!(gpu, cuMemGetInfo_v2(&mut 0, &mut 0))
    });
    each("cuMemAlloc", &|| call!(gpu, cuMemAlloc_v2(&mut 0, 4096)));
    each("cuDevicePrimaryCtxRetain", &|| {
        call!(
            gpu,
            cuDevicePrimaryCtxRetain(&mut ptr::null_mut(), gpu.device)
        )
    });
    each("cuEventQuery", &|| call!(gpu, cuEventQuery(event)));
    each("cuLaunchKernel", &|| gpu.launch_empty(ptr::null_mut()));
    seen.code("the parent's cuEventQuery", call!(gpu, cuEventQuery(event)));
    seen.code("the parent's launch", gpu.launch_empty(ptr::null_mut()));
    seen.code("the parent's wait", call!(gpu, cuCtxSynchronize()));
    must(call!(gpu, cuEventDestroy_v2(event)));
}

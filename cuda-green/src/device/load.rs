//! Loading of images by the driver's compiler, with what it says about them.

use std::ffi::c_void;

use cuda_green_sys::{CUjit_option, CUmodule, CUresult};

use super::CudaDevice;
use crate::{
    error::{Error, Result},
    image::{Image, ImageKind},
};

/// Bytes of each log. The compiler cuts off what is longer.
const LOG: usize = 8192;

/// Loads an image into the device's primary context, which serves all green contexts of the device.
pub(super) fn load(device: &CudaDevice, image: &Image<'_>) -> Result<CUmodule> {
    let (mut errors, mut notes) = (vec![0u8; LOG], vec![0u8; LOG]);
    let mut options = [
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        CUjit_option::CU_JIT_INFO_LOG_BUFFER,
        CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
    ];
    // A number stands in the place of a pointer.
    let size = std::ptr::without_provenance_mut::<c_void>(LOG);
    let mut values = [
        errors.as_mut_ptr().cast(),
        size,
        notes.as_mut_ptr().cast(),
        size,
    ];
    let mut module = std::ptr::null_mut();
    let loaded = device.with_primary(|| {
        // SAFETY: the image is a C string, or a binary that is as long as its headers say; the options and
        // their values are four, and the logs as long as said.
        unsafe {
            device.driver().cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        }
    });
    let (errors, notes) = (text(&errors), text(&notes));
    match loaded {
        Ok(()) => {
            if !notes.is_empty() {
                log::debug!("loading {}: {notes}", image.kind);
            }
            Ok(module)
        }
        Err(Error::Driver { code, .. }) if !errors.is_empty() || is_of_the_image(code) => {
            Err(refused(image.kind, code, &errors, &notes))
        }
        Err(error) => Err(error),
    }
}

fn refused(image: ImageKind, code: CUresult, errors: &str, notes: &str) -> Error {
    let log = [errors, notes].into_iter().filter(|part| !part.is_empty());
    Error::ImageRefused {
        image,
        code,
        log: log.collect::<Vec<_>>().join("\n"),
    }
}

/// Whether the code is about the image, and not about the device or the driver.
fn is_of_the_image(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_INVALID_SOURCE
            | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED
    )
}

/// A log up to its NUL.
fn text(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(&log[..end.unwrap_or(log.len())]);
    text.trim().to_owned()
}

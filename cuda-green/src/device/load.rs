//! Loading of code images, with the log of the driver's compiler.

use std::ffi::c_void;

use cuda_green_sys::{CUjit_option, CUmodule, CUresult};

use super::{cuda_device::CudaDevice, raw_module::RawModule};
use crate::{
    error::{Error, Result},
    image::{Image, ImageKind},
};

/// Size of each log in bytes. The compiler truncates a longer one.
const LOG_BYTES: usize = 8192;

impl RawModule {
    /// Compiles and loads PTX in the device's primary context.
    pub(crate) fn load_ptx(device: &CudaDevice, ptx: &str) -> Result<Self> {
        let image = Image::new(ptx.as_bytes())?;
        // Safe code must not make the driver read a binary, because the driver trusts the contents.
        match image.kind {
            ImageKind::Ptx => load(device, &image).map(Self),
            kind => Err(Error::InvalidArgument {
                name: "ptx",
                value: format!("a {kind}"),
                reason: "binaries are loaded by `Module::load_image`",
            }),
        }
    }

    /// Loads an image of any kind in the device's primary context.
    ///
    /// # Safety
    /// A binary is complete and was made by NVIDIA's tools.
    pub(crate) unsafe fn load_image(device: &CudaDevice, image: &[u8]) -> Result<Self> {
        load(device, &Image::new(image)?).map(Self)
    }
}

/// Loads an image into the device's primary context, which serves all green contexts of the device.
fn load(device: &CudaDevice, image: &Image<'_>) -> Result<CUmodule> {
    let (mut errors, mut notes) = (vec![0u8; LOG_BYTES], vec![0u8; LOG_BYTES]);
    let mut options = [
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        CUjit_option::CU_JIT_INFO_LOG_BUFFER,
        CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
    ];
    // The driver takes the size in the place of a pointer.
    let size = std::ptr::without_provenance_mut::<c_void>(LOG_BYTES);
    let mut values = [
        errors.as_mut_ptr().cast(),
        size,
        notes.as_mut_ptr().cast(),
        size,
    ];
    let mut module = std::ptr::null_mut();
    let loaded = device.with_primary(|| {
        // SAFETY: the image is a C string, or a binary that is as long as its headers say; there are four options
        // and four values, and the logs have the given size.
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
        Err(Error::Driver { code, .. }) if !errors.is_empty() || is_about_image(code) => {
            Err(refused(image.kind, code, &errors, &notes))
        }
        Err(error) => Err(error),
    }
}

/// Makes the error of a refused image, with both logs.
fn refused(image: ImageKind, code: CUresult, errors: &str, notes: &str) -> Error {
    let log = [errors, notes].into_iter().filter(|part| !part.is_empty());
    Error::ImageRefused {
        image,
        code,
        log: log.collect::<Vec<_>>().join("\n"),
    }
}

/// Returns whether the code concerns the image and not the device or the driver.
fn is_about_image(code: CUresult) -> bool {
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

/// Returns the text of a log, up to its NUL.
fn text(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(&log[..end.unwrap_or(log.len())]);
    text.trim().to_owned()
}

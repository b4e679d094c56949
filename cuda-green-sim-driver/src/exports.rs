//! The driver's C symbols. Each only passes its call on to the process's simulated driver.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use cuda_green_sys::*;

use crate::instance::instance;

macro_rules! exports {
    ($(
        $(#[$doc:meta])+
        $name:ident($($arg:ident: $ty:ty),* $(,)?), since $since:tt;
    )+) => {$(
        /// # Safety
        /// The rules of the driver's function of this name.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments)]
        pub(crate) unsafe extern "C" fn $name($($arg: $ty),*) -> CUresult {
            match instance() {
                // SAFETY: the caller keeps the rules of the driver's function.
                Ok(instance) => unsafe { instance.api.$name($($arg),*) }
                    // A real driver of that version does not export the symbol at all.
                    .unwrap_or(CUresult::CUDA_ERROR_NOT_SUPPORTED),
                Err(code) => code,
            }
        }
    )+};
}

cuda_green_sys::each_entry_point!(exports);

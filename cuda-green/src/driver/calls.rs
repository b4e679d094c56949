//! The result layer: one fallible method for each entry point of the driver. Its errors carry the entry point's name.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use cuda_green_sys::*;

use super::loaded::Driver;
use crate::error::Result;

macro_rules! calls {
    ($(
        $(#[$doc:meta])+
        $name:ident($($arg:ident: $ty:ty),* $(,)?), since $since:tt;
    )+) => {
        #[allow(dead_code, non_snake_case, clippy::too_many_arguments)] // all entry points, under the driver's names
        impl Driver {$(
            $(#[$doc])+
            ///
            /// # Safety
            /// The rules that the CUDA headers and documentation give for the function of this name.
            #[inline]
            pub(crate) unsafe fn $name(&self, $($arg: $ty),*) -> Result<()> {
                // SAFETY: the caller keeps the rules of the driver's function.
                self.check(name::$name, unsafe { self.api().$name($($arg),*) })
            }
        )+}

        /// The names of the entry points as errors give them: without the suffix of an ABI version.
        pub(crate) mod name {
            $(
                #[allow(dead_code, non_upper_case_globals)]
                pub(crate) const $name: &str = super::without_suffix(stringify!($name));
            )+
        }
    };
}

cuda_green_sys::each_entry_point!(calls);

/// Returns the name without its ABI suffix (`_v2`, `_v3`).
const fn without_suffix(name: &str) -> &str {
    match name.as_bytes() {
        [.., b'_', b'v', b'0'..=b'9'] => name.split_at(name.len() - 3).0,
        _ => name,
    }
}

/// Logs the failure of a call in a destructor, which cannot return an error.
pub(crate) fn log_failure(result: Result<()>) {
    if let Err(error) = result {
        log::error!("in a destructor: {error}");
    }
}

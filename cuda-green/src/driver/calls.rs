//! The result layer: one fallible call for each entry point of the driver, which knows its own name.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use cuda_green_sys::*;

use super::Driver;
use crate::error::Result;

macro_rules! calls {
    ($(
        $(#[$doc:meta])+
        $name:ident($($arg:ident: $ty:ty),* $(,)?), since $since:tt;
    )+) => {
        #[allow(dead_code, non_snake_case, clippy::too_many_arguments)] // the driver's own names, and all of them
        impl Driver {$(
            $(#[$doc])+
            ///
            /// # Safety
            /// The rules of the driver's function of this name.
            #[inline]
            pub(crate) unsafe fn $name(&self, $($arg: $ty),*) -> Result<()> {
                // SAFETY: the caller keeps the rules of the driver's function.
                self.check(name::$name, unsafe { self.api().$name($($arg),*) })
            }
        )+}

        /// The names of the calls, as errors have them: without the suffix of an ABI.
        pub(crate) mod name {
            $(
                #[allow(dead_code, non_upper_case_globals)]
                pub(crate) const $name: &str = super::without_suffix(stringify!($name));
            )+
        }
    };
}

cuda_green_sys::each_entry_point!(calls);

/// Cuts off `_v2`, `_v3` and the like.
const fn without_suffix(name: &str) -> &str {
    match name.as_bytes() {
        [.., b'_', b'v', b'0'..=b'9'] => name.split_at(name.len() - 3).0,
        _ => name,
    }
}

/// Leaves a trace of a call that failed where nobody can be told: in a destructor.
pub(crate) fn log_failure(result: Result<()>) {
    if let Err(error) = result {
        log::error!("in a destructor: {error}");
    }
}

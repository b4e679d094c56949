//! Panics in a caller's code, as errors.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls a caller's code, and returns the message if it panics.
pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message")
            .to_owned();
        // Its drop may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
        message
    })
}

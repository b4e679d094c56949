//! The one error type of the crate.

use std::{ffi::OsString, fmt, path::PathBuf};

use crate::{bindings::CUresult, entry_points::MissingEntryPoint};

/// The reason why a driver could not be loaded, or could not do what was called.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No driver was found in any of the usual places.
    #[error(
        "no CUDA driver found (tried: {}); install an NVIDIA driver, mount it into the container, or name one with CUDA_GREEN_DRIVER",
        tried.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; ")
    )]
    DriverNotFound {
        /// Each place with the system loader's message, which names the place again.
        tried: Vec<(PathBuf, String)>,
    },
    /// The named library cannot be loaded. No other library is tried instead.
    #[error("the library named as the CUDA driver cannot be loaded: {reason}")]
    DriverUnloadable {
        /// The path as it was given.
        path: PathBuf,
        /// The system loader's message.
        reason: String,
    },
    /// A library was loaded, but it is not a CUDA driver.
    #[error("{path} is not a CUDA driver: it does not export {symbol}", path = path.display())]
    NotACudaDriver {
        /// The library.
        path: PathBuf,
        /// The required symbol that is missing.
        symbol: &'static str,
    },
    /// The library does not report the version of CUDA that it supports.
    #[error(
        "{path} does not report its CUDA version: {code}{}",
        if *code == CUresult::CUDA_ERROR_STUB_LIBRARY {
            "; it serves for linking only: remove its folder from LD_LIBRARY_PATH and make sure that a driver is installed"
        } else {
            ""
        },
        path = path.display()
    )]
    VersionUnknown {
        /// The library.
        path: PathBuf,
        /// The answer of `cuDriverGetVersion`.
        code: CUresult,
    },
    /// The library reports a version that no driver has.
    #[error(
        "{path} is not a CUDA driver, or a damaged one: it reports the version {reported} (12.4 would be 12040)",
        path = path.display()
    )]
    VersionImpossible {
        /// The library.
        path: PathBuf,
        /// The number that `cuDriverGetVersion` wrote.
        reported: i32,
    },
    /// A simulated driver was named; this crate does not contain one.
    #[error(
        "`sim:{0}` names a simulated driver; only `cuda-green` with its feature `test-utils` can load one"
    )]
    Simulated(String),
    /// `CUDA_GREEN_DRIVER` is set in a process with raised privileges: set-user-id, set-group-id or file
    /// capabilities. Nothing is loaded.
    #[error(
        "CUDA_GREEN_DRIVER is set, and this process has raised privileges (set-user-id, set-group-id or file capabilities), so the environment must not choose the library; unset it, or name the driver in the program with `DriverSpec::Path`"
    )]
    VariableRefused {
        /// The variable's value.
        value: OsString,
    },
    /// The specification names no driver.
    #[error(
        "`{0}` does not name a CUDA driver; use `system`, `sim:<device>@<major>.<minor>` or the path of a library"
    )]
    InvalidSpec(String),
    /// The text is not a CUDA version.
    #[error("`{0}` is not a CUDA version; write it like `12.4`")]
    InvalidVersion(String),
    /// The driver lacks an entry point.
    #[error(transparent)]
    MissingEntryPoint(#[from] MissingEntryPoint),
}

/// Writes what `Display` writes, because `unwrap` prints `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

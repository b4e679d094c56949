//! The one error type of the crate.

use std::{ffi::OsString, fmt, path::PathBuf};

use crate::{bindings::CUresult, entry_points::MissingEntryPoint};

/// The reason why a driver could not be loaded, or could not do what was called.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// None of the places where a driver lives has one.
    #[error(
        "no CUDA driver found (tried: {}); install an NVIDIA driver, mount it into the container, or name one with CUDA_GREEN_DRIVER",
        tried.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; ")
    )]
    DriverNotFound {
        /// Each place, with what the system's loader said of it, which names the place again.
        tried: Vec<(PathBuf, String)>,
    },
    /// The library that was named cannot be loaded. No other is tried instead.
    #[error("the library named as the CUDA driver cannot be loaded: {reason}")]
    DriverUnloadable {
        /// The path as it was given.
        path: PathBuf,
        /// What the system's loader said.
        reason: String,
    },
    /// A library was loaded, but it is no CUDA driver.
    #[error("{path} is not a CUDA driver: it does not export {symbol}", path = path.display())]
    NotACudaDriver {
        /// The library.
        path: PathBuf,
        /// The symbol without which nothing can be done.
        symbol: &'static str,
    },
    /// The library does not tell the version of CUDA that it speaks.
    #[error(
        "{path} does not tell its CUDA version: {code}{}",
        if *code == CUresult::CUDA_ERROR_STUB_LIBRARY {
            "; it is there for linking only: take its folder out of LD_LIBRARY_PATH, and see that a driver is installed"
        } else {
            ""
        },
        path = path.display()
    )]
    VersionUnknown {
        /// The library.
        path: PathBuf,
        /// What `cuDriverGetVersion` answered.
        code: CUresult,
    },
    /// The library tells a version that no driver has.
    #[error(
        "{path} is not a CUDA driver, or a damaged one: asked for its version it says {told} (12.4 would be 12040)",
        path = path.display()
    )]
    VersionImpossible {
        /// The library.
        path: PathBuf,
        /// What `cuDriverGetVersion` wrote.
        told: i32,
    },
    /// A simulated driver was named, which this crate does not contain.
    #[error(
        "`sim:{0}` names a simulated driver; only `cuda-green` with its feature `test-utils` can load one"
    )]
    Simulated(String),
    /// `CUDA_GREEN_DRIVER` is set in a process that has more rights than whoever set it: set-user-id,
    /// set-group-id or file capabilities. Nothing is loaded.
    #[error(
        "CUDA_GREEN_DRIVER is set, and this process has raised privileges (set-user-id, set-group-id or file capabilities), where the environment must not choose what is loaded; unset it, or name the driver in the program with `DriverSpec::Path`"
    )]
    VariableRefused {
        /// What the variable says.
        value: OsString,
    },
    /// A driver specification that names nothing.
    #[error(
        "`{0}` names no CUDA driver; give `system`, `sim:<device>@<major>.<minor>` or the path of a library"
    )]
    InvalidSpec(String),
    /// Text that is no CUDA version.
    #[error("`{0}` is no CUDA version; one looks like `12.4`")]
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

//! The one error type of the crate.

use std::fmt;

/// The reason why a simulated driver could not be made, or what a test left in one.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not of the form `<device>@<major>.<minor>`.
    #[error(
        "`{spec}` does not describe a simulated driver; use `h200@13.0`, `2xh200@13.0` for two devices, or the path of a `.toml` file"
    )]
    InvalidSpec {
        /// The text that was given.
        spec: String,
    },
    /// A driver of this many devices, or of none, is not simulated.
    #[error("{count} devices were asked for; a simulated driver has 1 to {most}")]
    DeviceCount {
        /// The number that was asked for.
        count: u32,
        /// The largest possible number.
        most: u32,
    },
    /// No device of that name is built in.
    #[error("no simulated device is called `{name}`; there are {}", list(.known))]
    UnknownDevice {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<&'static str>,
    },
    /// There never was such a CUDA version, or the simulator does not know it.
    #[error("the simulator does not support CUDA `{version}`; it supports {}", list(.known))]
    UnknownVersion {
        /// The version that was asked for.
        version: String,
        /// The versions that there are.
        known: Vec<String>,
    },
    /// A profile's file cannot be read, or contains something impossible.
    #[error("{}{}: {reason}", .path.display(), .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    InvalidProfile {
        /// The file.
        path: std::path::PathBuf,
        /// The line of the mistake, from 1, if it has one.
        line: Option<usize>,
        /// The mistake.
        reason: String,
    },
    /// All slots are taken: drop a driver first.
    #[error(
        "this process already has {limit} simulated drivers, the most that it can have; drop one first"
    )]
    TooManyDrivers {
        /// The largest possible number: [`MAX_DRIVERS`](crate::MAX_DRIVERS).
        limit: usize,
    },
    /// The text does not describe a fault.
    #[error("`{text}` is not a fault that can be injected: {reason}")]
    InvalidInjection {
        /// The text that was given.
        text: String,
        /// The mistake in it.
        reason: String,
    },
    /// Objects are left: see [`Sim::check_leaks`](crate::Sim::check_leaks).
    #[error("left behind in the simulated driver: {live}")]
    Leaks {
        /// The objects that are left.
        live: Box<crate::leaks::LiveObjects>,
    },
    /// The table of entry points could not be filled.
    #[error(transparent)]
    Api(#[from] cuda_green_sys::Error),
}

/// Writes what `Display` writes, because `unwrap` prints `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn list(names: &[impl AsRef<str>]) -> String {
    names
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ")
}

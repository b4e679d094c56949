//! Driver specifications and the paths they stand for. Pure functions, so that each platform's rules are tested on
//! every platform.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{error::Error, privileges};

/// The environment variable that names the driver to load: see [`DriverSpec`].
///
/// In a process with raised privileges (set-user-id, set-group-id, file capabilities) it is refused,
/// unless it names the system's driver: see [`Error::VariableRefused`].
pub const DRIVER_VARIABLE: &str = "CUDA_GREEN_DRIVER";

/// The driver to load.
///
/// ```
/// use cuda_green_sys::DriverSpec;
///
/// assert_eq!("system".parse::<DriverSpec>()?, DriverSpec::System);
/// assert_eq!("sim:h200@13.0".parse::<DriverSpec>()?, DriverSpec::Simulated("h200@13.0".into()));
/// assert_eq!("/opt/libcuda.so.1".parse::<DriverSpec>()?, DriverSpec::Path("/opt/libcuda.so.1".into()));
/// # Ok::<(), cuda_green_sys::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DriverSpec {
    /// The system's driver, in the place where this platform keeps it.
    #[default]
    System,
    /// The simulated driver of this profile: `h200@13.0`.
    Simulated(String),
    /// This library. If it cannot be loaded, loading fails: nothing else is tried.
    Path(PathBuf),
}

impl DriverSpec {
    /// Reads [`DRIVER_VARIABLE`]; unset or empty means [`DriverSpec::System`].
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] if the value cannot name a driver; [`Error::VariableRefused`] if it names another
    /// driver than the system's and the process has raised privileges.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variable(std::env::var_os(DRIVER_VARIABLE), privileges::are_raised())
    }

    /// Decides for [`DriverSpec::from_env`]. With raised privileges the value is not even parsed: the user who set it
    /// must not choose the library that is loaded.
    fn from_variable(value: Option<OsString>, privileges_are_raised: bool) -> Result<Self, Error> {
        match value {
            None => Ok(Self::System),
            Some(value) if value.is_empty() || value == "system" => Ok(Self::System),
            Some(value) if privileges_are_raised => Err(Error::VariableRefused { value }),
            Some(value) => Self::parse(&value),
        }
    }

    /// Parses a specification that need not be UTF-8.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] for an empty text, for `sim:` without a profile, and for a zero byte, which no path can
    /// contain.
    pub fn parse(value: &OsStr) -> Result<Self, Error> {
        if !can_be_a_file(value) {
            return Err(Error::InvalidSpec(shown(value)));
        }
        match value.to_str() {
            Some("sim:") => Err(Error::InvalidSpec(shown(value))),
            Some("system") => Ok(Self::System),
            Some(text) => Ok(match text.strip_prefix("sim:") {
                Some(profile) => Self::Simulated(profile.to_owned()),
                None => Self::Path(text.into()),
            }),
            None => Ok(Self::Path(value.into())),
        }
    }
}

impl FromStr for DriverSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(OsStr::new(text))
    }
}

/// An operating system, as far as it determines where the driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// Linux and other systems with `dlopen`, including the Windows Subsystem for Linux.
    Unix,
    /// Windows.
    Windows,
}

impl Platform {
    /// The platform that this crate was compiled for.
    pub const CURRENT: Self = if cfg!(windows) {
        Self::Windows
    } else {
        Self::Unix
    };

    /// Returns the places where the system's driver is looked for, in order.
    ///
    /// `libcuda.so.1` is the file that a driver installs; `libcuda.so` is a link that some set up by hand. The
    /// Windows Subsystem for Linux keeps its driver outside the loader's path.
    pub fn driver_candidates(self) -> &'static [&'static str] {
        match self {
            Self::Unix => &[
                "libcuda.so.1",
                "libcuda.so",
                "/usr/lib/wsl/lib/libcuda.so.1",
            ],
            Self::Windows => &["nvcuda.dll"],
        }
    }
}

/// Returns whether a path of these bytes can name a file.
fn can_be_a_file(path: &OsStr) -> bool {
    !path.is_empty() && !path.as_encoded_bytes().contains(&0)
}

/// Returns a refused specification as printable text.
fn shown(value: &OsStr) -> String {
    value.to_string_lossy().replace('\0', "\\0")
}

/// Returns the libraries to try for a specification, and whether failing to load the first is final.
pub(crate) fn candidates(
    spec: &DriverSpec,
    platform: Platform,
) -> Result<(Vec<&Path>, bool), Error> {
    match spec {
        DriverSpec::System => Ok((
            platform.driver_candidates().iter().map(Path::new).collect(),
            false,
        )),
        // An empty path would name the program itself, and no path has a zero byte.
        DriverSpec::Path(path) if !can_be_a_file(path.as_os_str()) => {
            Err(Error::InvalidSpec(shown(path.as_os_str())))
        }
        DriverSpec::Path(path) => Ok((vec![path], true)),
        DriverSpec::Simulated(profile) => Err(Error::Simulated(profile.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_platform_has_its_candidates() {
        let (unix, only) = candidates(&DriverSpec::System, Platform::Unix).unwrap();
        assert_eq!(unix[0], Path::new("libcuda.so.1"));
        assert!(unix.iter().any(|path| path.starts_with("/usr/lib/wsl")));
        assert!(!only);
        let (windows, _) = candidates(&DriverSpec::System, Platform::Windows).unwrap();
        assert_eq!(windows, [Path::new("nvcuda.dll")]);
    }

    #[test]
    fn a_named_library_is_the_only_one_tried() {
        let spec: DriverSpec = "/nowhere/libcuda.so.1".parse().unwrap();
        let (paths, only) = candidates(&spec, Platform::Unix).unwrap();
        assert_eq!(
            (paths, only),
            (vec![Path::new("/nowhere/libcuda.so.1")], true)
        );
    }

    #[test]
    fn with_raised_privileges_the_variable_names_the_system_s_driver_or_is_refused() {
        let decide = |value: Option<&str>, raised| {
            DriverSpec::from_variable(value.map(OsString::from), raised)
        };
        for harmless in [None, Some(""), Some("system")] {
            for raised in [false, true] {
                assert_eq!(decide(harmless, raised).unwrap(), DriverSpec::System);
            }
        }
        for value in [
            "/tmp/evil.so",
            "libcuda.so.1",
            "sim:h200@13.0",
            "sim:",
            " system",
        ] {
            match decide(Some(value), true) {
                Err(Error::VariableRefused { value: refused }) => assert_eq!(refused, value),
                other => panic!("{value}: {other:?}"),
            }
        }
        let path = DriverSpec::Path("/opt/libcuda.so.1".into());
        assert_eq!(decide(Some("/opt/libcuda.so.1"), false).unwrap(), path);
        assert!(matches!(
            decide(Some("sim:"), false),
            Err(Error::InvalidSpec(_))
        ));
    }

    #[test]
    fn a_path_that_no_file_can_have_is_refused_before_anything_is_loaded() {
        for (path, said) in [("", "``"), ("a\0b", "`a\\0b`")] {
            match crate::Api::load_spec(&DriverSpec::Path(path.into())) {
                Err(error @ Error::InvalidSpec(_)) => {
                    assert!(error.to_string().starts_with(said), "{error}");
                }
                other => panic!("{path:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn nothing_and_nothing_simulated_are_errors() {
        for text in ["", "sim:", "a\0b"] {
            assert!(
                matches!(text.parse::<DriverSpec>(), Err(Error::InvalidSpec(_))),
                "{text:?}"
            );
        }
    }
}

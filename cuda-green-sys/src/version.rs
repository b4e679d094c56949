//! CUDA versions as values, of drivers and of entry points.

use std::fmt;

/// A CUDA version, such as 12.4. Ordered.
///
/// This is the version of the *driver API* (what `cuDriverGetVersion` answers), not of the display
/// driver (550.163) nor of an installed toolkit.
///
/// ```
/// use cuda_green_sys::CudaVersion;
///
/// let version: CudaVersion = "12.4".parse()?;
/// assert_eq!(version, CudaVersion::new(12, 4));
/// assert_eq!(version, CudaVersion::from_raw(12040));
/// assert!(version < CudaVersion::new(13, 0));
/// # Ok::<(), cuda_green_sys::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CudaVersion {
    major: u16,
    minor: u8,
}

impl CudaVersion {
    /// Makes the version `major.minor`. Minors above 99 do not exist and are clamped to 99.
    pub const fn new(major: u16, minor: u8) -> Self {
        let minor = if minor > 99 { 99 } else { minor };
        Self { major, minor }
    }

    /// Converts from the driver's form, `1000 × major + 10 × minor`. Negative and huge numbers are clamped.
    pub const fn from_raw(raw: i32) -> Self {
        let raw = if raw < 0 { 0 } else { raw };
        let major = raw / 1000;
        let major = if major > u16::MAX as i32 {
            u16::MAX
        } else {
            major as u16
        };
        Self::new(major, ((raw % 1000) / 10) as u8)
    }

    /// Reads the version that a driver reports; `None` if no driver can have that version.
    pub(crate) fn reported(raw: i32) -> Option<Self> {
        let version = Self::from_raw(raw);
        // The last digit has no meaning; no driver has used it yet.
        (version.major > 0 && version.to_raw() / 10 == raw / 10).then_some(version)
    }

    /// Returns the driver's form, `1000 × major + 10 × minor`.
    pub const fn to_raw(self) -> i32 {
        self.major as i32 * 1000 + self.minor as i32 * 10
    }

    /// Returns the part before the dot.
    pub const fn major(self) -> u16 {
        self.major
    }

    /// Returns the part after the dot.
    pub const fn minor(self) -> u8 {
        self.minor
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

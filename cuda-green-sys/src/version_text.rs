//! Parsing of CUDA versions.
//!
//! Separate from `version`, because [`Error`] contains versions and parsing one may end in an [`Error`].

use std::str::FromStr;

use crate::{error::Error, version::CudaVersion};

impl FromStr for CudaVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        text.split_once('.')
            .filter(|(major, minor)| digits(major) && digits(minor))
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .filter(|(_, minor)| *minor <= 99)
            .map(|(major, minor)| Self::new(major, minor))
            .ok_or_else(|| Error::InvalidVersion(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_form_goes_both_ways_for_every_version() {
        // Miri is some thousand times slower.
        let step = if cfg!(miri) { 33 } else { 1 };
        for major in (0..100).step_by(step) {
            for minor in (0..100).step_by(step) {
                let version = CudaVersion::new(major, minor);
                assert_eq!(CudaVersion::from_raw(version.to_raw()), version);
                assert_eq!(version.to_string().parse::<CudaVersion>().unwrap(), version);
            }
        }
    }

    #[test]
    fn nonsense_is_an_error_or_clamped_never_a_panic() {
        for text in [
            "", ".", "12", "12.", ".4", "12.4.1", "-1.0", "+1.0", "1.100", "99999.0", "a.b",
        ] {
            assert!(text.parse::<CudaVersion>().is_err(), "{text:?} parsed");
        }
        for raw in [i32::MIN, -1, 0, 1, 9, i32::MAX] {
            let _ = CudaVersion::from_raw(raw).to_string();
        }
    }
}

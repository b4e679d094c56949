//! Sizes of memory for people.

use std::fmt;

/// Bytes as `1.50 GiB (1610612736 bytes)`; few of them as `512 bytes`.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        let Self(bytes) = *self;
        match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
            Some((name, unit)) if bytes.is_multiple_of(*unit) => {
                write!(f, "{} {name} ({bytes} bytes)", bytes / unit)
            }
            Some((name, unit)) => write!(
                f,
                "{:.2} {name} ({bytes} bytes)",
                bytes as f64 / *unit as f64
            ),
            None => write!(f, "{bytes} bytes"),
        }
    }
}

/// A limit in bytes, of which the greatest number is none.
pub(crate) struct Limit(pub(crate) u64);

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("no limit"),
            bytes => Bytes(bytes).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB (1024 bytes)"),
            (1_610_612_736, "1.50 GiB (1610612736 bytes)"),
            (8 << 30, "8 GiB (8589934592 bytes)"),
            (150_754_820_096, "140.40 GiB (150754820096 bytes)"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Limit(u64::MAX).to_string(), "no limit");
        assert_eq!(Limit(1).to_string(), "1 bytes");
    }
}

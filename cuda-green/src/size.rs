//! Formatting of memory sizes for messages.

use std::fmt;

/// A number of bytes, formatted as `1.50 GiB (1610612736 bytes)`, or below 1 KiB as `512 bytes`.
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
            None if bytes == 1 => f.write_str("1 byte"),
            None => write!(f, "{bytes} bytes"),
        }
    }
}

/// The bytes that are left of a limit, formatted with their verb; without the limit if there is none (`u64::MAX`).
pub(crate) struct BytesLeft {
    pub(crate) available: u64,
    pub(crate) limit: u64,
}

impl fmt::Display for BytesLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.available).fmt(f)?;
        if self.limit < u64::MAX {
            write!(f, " of the limit of {}", Bytes(self.limit))?;
        }
        f.write_str(if self.available == 1 {
            " is left"
        } else {
            " are left"
        })
    }
}

/// The free bytes of a device, if they are known, formatted with their verb.
pub(crate) struct BytesFree {
    pub(crate) free: Option<u64>,
    pub(crate) total: u64,
}

impl fmt::Display for BytesFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = Bytes(self.total);
        match self.free {
            Some(1) => write!(f, "only 1 byte of the device's {total} is free"),
            Some(free) => write!(f, "only {} of the device's {total} are free", Bytes(free)),
            None => write!(f, "less of the device's {total} is free"),
        }
    }
}

/// A number of bytes with its verb: `1 byte was`, `2 KiB (2048 bytes) were`.
pub(crate) struct BytesWere(pub(crate) u64);

impl fmt::Display for BytesWere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.0 == 1 { "was" } else { "were" };
        write!(f, "{} {verb}", Bytes(self.0))
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
        assert_eq!(BytesWere(1).to_string(), "1 byte was");
        assert_eq!(BytesWere(0).to_string(), "0 bytes were");
        let left = |available, limit| BytesLeft { available, limit }.to_string();
        assert_eq!(left(1, 512), "1 byte of the limit of 512 bytes is left");
        assert_eq!(left(10, u64::MAX), "10 bytes are left");
        let free = |free| BytesFree { free, total: 1024 }.to_string();
        let total = "of the device's 1 KiB (1024 bytes)";
        assert_eq!(free(Some(0)), format!("only 0 bytes {total} are free"));
        assert_eq!(free(None), format!("less {total} is free"));
    }
}

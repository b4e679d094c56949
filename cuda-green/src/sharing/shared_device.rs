//! The plan of a device among processes, as a process sees it that has joined none.

use std::{fmt, path::PathBuf};

use cuda_green_sys::CudaVersion;

use super::status::SharedStatus;

/// The plan among processes that is in force for one device, read from its files.
///
/// No driver is asked, and no name is claimed: this is for programs that show plans.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedDevice {
    /// The device.
    pub uuid: DeviceUuid,
    /// SMs of the device, as the driver reported them to the processes of the plan.
    pub sm_count: u32,
    /// Version of the driver that the plan was made with.
    pub driver: CudaVersion,
    /// The MPS servers through which the processes use the device.
    pub mps: PlanMps,
    /// The plan, and who holds its names.
    pub status: SharedStatus,
}

/// The MPS servers behind a plan among processes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanMps {
    /// The processes of the plan use the device without MPS.
    None,
    /// The daemon of these pipes has these servers.
    Servers {
        /// The folder of the daemon's pipes.
        pipes: PathBuf,
        /// The ids of the servers' processes; none where no client has started one.
        pids: Vec<u32>,
    },
    /// The daemon cannot be asked.
    Unknown {
        /// The reason, and what to do.
        reason: String,
    },
}

/// The UUID of a device, shown as NVIDIA's tools show it: `GPU-1b2c…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceUuid(pub [u8; 16]);

impl DeviceUuid {
    /// Returns whether a text is this UUID or its beginning, with or without `GPU-` and hyphens.
    pub fn starts_with(&self, text: &str) -> bool {
        let start = text.strip_prefix("GPU-").unwrap_or(text);
        let digits = |text: &str| text.replace('-', "").to_ascii_lowercase();
        let start = digits(start);
        !start.is_empty() && digits(&self.hyphened()).starts_with(&start)
    }

    /// Returns the name of a file of the device, which ends so.
    #[cfg(target_os = "linux")]
    pub(super) fn file(&self, end: &str) -> String {
        format!("{}.{end}", self.digits())
    }

    /// Returns its digits without hyphens.
    pub(super) fn digits(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn hyphened(&self) -> String {
        let mut text = String::with_capacity(36);
        for (index, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&index) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    /// Reads the UUID that the name of a plan's file begins with.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(super) fn of_file(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".plan")?;
        let is_fit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if digits.len() != 32 || !digits.bytes().all(is_fit) {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for DeviceUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU-{}", self.hyphened())
    }
}

impl fmt::Debug for DeviceUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvidia_writes_it_and_read_from_a_files_name() {
        let uuid = DeviceUuid([0x1b, 0x2c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xff]);
        assert_eq!(uuid.to_string(), "GPU-1b2c0001-0203-0405-0607-08090a0b0cff");
        let file = "1b2c0001020304050607".to_owned() + "08090a0b0cff.plan";
        assert_eq!(DeviceUuid::of_file(&file), Some(uuid));
        for other in ["", ".plan", "1b2c.plan", &file[..36], &file.to_uppercase()] {
            assert_eq!(DeviceUuid::of_file(other), None, "{other}");
        }
        for start in ["GPU-1b2c", "1B2C0001-02", "1b2c000102", &uuid.to_string()] {
            assert!(uuid.starts_with(start), "{start}");
        }
        for other in ["", "GPU-", "2c", "GPU-1b2d"] {
            assert!(!uuid.starts_with(other), "{other}");
        }
    }
}

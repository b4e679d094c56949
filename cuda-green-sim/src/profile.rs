//! The devices and CUDA versions that can be simulated, as one table of data, and the parsing of a profile's name.
//!
//! SM counts, compute capabilities and names are those that real drivers report. The table says which figures were
//! measured on the H200 only, and which of them other devices use too.

mod file;

use cuda_green_sys::{CUDA_VERSION, CudaVersion};

use crate::{error::Error, sms::SmSet};

const MIB: u64 = 1 << 20;

/// A device that can be simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceProfile {
    /// The name in a spec: `h200`.
    pub name: &'static str,
    /// The name that the driver reports: `NVIDIA H200`.
    pub device_name: &'static str,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Number of SMs.
    pub sm_count: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// The smallest partition that a split by count makes, in SMs.
    pub min_sm_partition_size: u32,
    /// Number of SMs that are co-scheduled by default; partitions of a split by count are multiples of it.
    pub sm_coscheduled_alignment: u32,
    /// The numerically highest and lowest stream priority: least first, greatest last.
    pub stream_priorities: (i32, i32),
    /// The source of these figures.
    pub source: &'static str,
    /// Groups of SMs that can be co-scheduled: number and size, in the order of the SM ids.
    topology: &'static [(u32, u32)],
    /// Threads, blocks and bytes of shared memory that one SM holds at once.
    per_sm: (u32, u32, u32),
    /// Bytes of second-level cache.
    pub(crate) l2_bytes: i32,
    /// Bits of the memory's bus; 0 if not known.
    pub(crate) memory_bus_bits: i32,
    /// Whether the GPU shares the host's memory.
    pub(crate) integrated: bool,
}

impl DeviceProfile {
    /// Returns all SMs, as the hardware groups them.
    pub(crate) fn sms(&self) -> SmSet {
        SmSet::with_chunks(
            self.topology
                .iter()
                .flat_map(|(count, size)| std::iter::repeat_n(*size, *count as usize)),
        )
    }

    pub(crate) fn threads_per_sm(&self) -> u32 {
        self.per_sm.0
    }

    pub(crate) fn blocks_per_sm(&self) -> u32 {
        self.per_sm.1
    }

    pub(crate) fn shared_per_sm(&self) -> u32 {
        self.per_sm.2
    }

    /// Returns whether there are thread-block clusters, and co-scheduling of more than two SMs: from 9.0 on.
    pub(crate) fn has_clusters(&self) -> bool {
        self.compute_capability.0 >= 9
    }

    /// Returns the most SMs that a structured split co-schedules (13.1 header).
    pub(crate) fn max_coscheduled(&self) -> u32 {
        if self.has_clusters() { 32 } else { 2 }
    }
}

/// The devices and the CUDA version of one simulated driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// The device; all devices of one driver are alike.
    pub device: &'static DeviceProfile,
    /// Number of devices.
    pub device_count: u32,
    /// The CUDA version that the driver supports.
    pub cuda_version: CudaVersion,
}

impl Profile {
    /// Returns the UUID of one of its devices. No real device has it: it begins with the letters `GREENSIM`.
    pub(crate) fn uuid(&self, ordinal: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        let text = b"GREENSIM".iter().chain(self.device.name.as_bytes());
        for (to, from) in bytes[..15].iter_mut().zip(text) {
            *to = *from;
        }
        bytes[15] = ordinal as u8;
        bytes
    }

    /// Reads `<device>@<version>` or `<count>x<device>@<version>`, where the version is `<major>.<minor>` or
    /// `newest`, or the file at a path that ends with `.toml`.
    pub(crate) fn parse(spec: &str) -> Result<Self, Error> {
        let invalid = || Error::InvalidSpec {
            spec: spec.to_owned(),
        };
        if spec.ends_with(".toml") {
            return file::read(spec);
        }
        let (device, version) = spec.split_once('@').ok_or_else(invalid)?;
        let (device_count, name) = match device.split_once('x') {
            Some((count, name))
                if !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit()) =>
            {
                let count: u32 = count.parse().map_err(|_| invalid())?;
                (count, name)
            }
            _ => (1, device),
        };
        if device_count == 0 || device_count > MAX_DEVICES {
            return Err(Error::DeviceCount {
                count: device_count,
                most: MAX_DEVICES,
            });
        }
        if name.is_empty() {
            return Err(invalid());
        }
        let device = DEVICES
            .iter()
            .find(|known| known.name == name)
            .ok_or_else(|| Error::UnknownDevice {
                name: name.to_owned(),
                known: DEVICES.iter().map(|known| known.name).collect(),
            })?;
        let mut versions = cuda_versions();
        let cuda_version = match version {
            "newest" => versions.last(),
            _ => versions.find(|known| version.parse().is_ok_and(|version| *known == version)),
        };
        let cuda_version = cuda_version.ok_or_else(|| Error::UnknownVersion {
            version: version.to_owned(),
            known: cuda_versions().map(|known| known.to_string()).collect(),
        })?;
        Ok(Self {
            device,
            device_count,
            cuda_version,
        })
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.device_count > 1 {
            write!(f, "{}x", self.device_count)?;
        }
        write!(f, "{}@{}", self.device.name, self.cuda_version)?;
        // A built-in device may have the same name.
        if DEVICES.iter().any(|known| std::ptr::eq(known, self.device)) {
            Ok(())
        } else {
            f.write_str(" (of a file)")
        }
    }
}

/// The most devices of one driver; an NVIDIA host has up to 16.
const MAX_DEVICES: u32 = 16;

/// Returns the built-in devices.
pub fn profiles() -> &'static [DeviceProfile] {
    DEVICES
}

/// Returns the CUDA versions that any device can be combined with, oldest first: from 11.4 to that of the header from
/// which the bindings were generated.
pub fn cuda_versions() -> impl Iterator<Item = CudaVersion> {
    const NEWEST: CudaVersion = CudaVersion::from_raw(CUDA_VERSION as i32);
    [(11, 4..=8), (12, 0..=9), (13, 0..=NEWEST.minor())]
        .into_iter()
        .flat_map(|(major, minors)| minors.map(move |minor| CudaVersion::new(major, minor)))
}

/// Common to compute capability 8.x: partitions of at least 4, in steps of 2 (NVIDIA's guide).
const AMPERE: DeviceProfile = DeviceProfile {
    name: "",
    device_name: "",
    compute_capability: (8, 0),
    sm_count: 0,
    memory_bytes: 0,
    min_sm_partition_size: 4,
    sm_coscheduled_alignment: 2,
    // The H200's range, which every recent device shares.
    stream_priorities: (0, -5),
    source: "",
    topology: &[],
    per_sm: (2048, 32, 164 * 1024),
    l2_bytes: 40 << 20,
    memory_bus_bits: 0,
    integrated: false,
};

/// Common to compute capability 9.0 and later: 8 and 8 (measured on 9.0; NVIDIA's guide for later ones).
const HOPPER: DeviceProfile = DeviceProfile {
    compute_capability: (9, 0),
    min_sm_partition_size: 8,
    sm_coscheduled_alignment: 8,
    per_sm: (2048, 32, 228 * 1024),
    l2_bytes: 50 << 20,
    ..AMPERE
};

/// 132 SMs of which 124 can run clusters of 4 and of 8, and which have 15 units of 8. At 8 blocks an SM, 327 clusters
/// of 3 fit, 193 of 5, 163 of 6 and 139 of 7. So five groups of 16, two of 18 and one of 8 are co-scheduled, and 8
/// SMs in pairs at most. Deduced from these figures of an H200, driver 580; the order of the SM ids is not measured,
/// and another chip of the same name may be cut differently.
const H200_TOPOLOGY: &[(u32, u32)] = &[(5, 16), (2, 18), (1, 8), (4, 2)];

static DEVICES: &[DeviceProfile] = &[
    DeviceProfile {
        name: "t4",
        device_name: "Tesla T4",
        compute_capability: (7, 5),
        sm_count: 40,
        memory_bytes: 15_360 * MIB,
        min_sm_partition_size: 2,
        topology: &[(20, 2)],
        per_sm: (1024, 16, 64 * 1024),
        l2_bytes: 4 << 20,
        source: "NVIDIA's data sheet; 7.x granularity from NVIDIA's guide",
        ..AMPERE
    },
    DeviceProfile {
        name: "a100",
        device_name: "NVIDIA A100-SXM4-80GB",
        sm_count: 108,
        memory_bytes: 81_920 * MIB,
        topology: &[(54, 2)],
        source: "NVIDIA's data sheet; 8.x granularity from NVIDIA's guide",
        ..AMPERE
    },
    DeviceProfile {
        name: "rtx4090",
        device_name: "NVIDIA GeForce RTX 4090",
        compute_capability: (8, 9),
        sm_count: 128,
        memory_bytes: 24_564 * MIB,
        topology: &[(64, 2)],
        per_sm: (1536, 24, 100 * 1024),
        l2_bytes: 72 << 20,
        source: "NVIDIA's data sheet; 8.x granularity from NVIDIA's guide",
        ..AMPERE
    },
    DeviceProfile {
        name: "l40s",
        device_name: "NVIDIA L40S",
        compute_capability: (8, 9),
        sm_count: 142,
        memory_bytes: 46_068 * MIB,
        topology: &[(71, 2)],
        per_sm: (1536, 24, 100 * 1024),
        l2_bytes: 96 << 20,
        source: "NVIDIA's data sheet; 8.x granularity from NVIDIA's guide",
        ..AMPERE
    },
    DeviceProfile {
        name: "h100",
        device_name: "NVIDIA H100 80GB HBM3",
        sm_count: 132,
        memory_bytes: 81_559 * MIB,
        topology: H200_TOPOLOGY,
        source: "NVIDIA's data sheet; co-scheduling as measured on an H200, the same chip",
        ..HOPPER
    },
    DeviceProfile {
        name: "h200",
        device_name: "NVIDIA H200",
        sm_count: 132,
        memory_bytes: 143_155 * MIB,
        l2_bytes: 60 << 20,
        memory_bus_bits: 6016,
        topology: H200_TOPOLOGY,
        source: "measured on an H200, driver 580.159.04, CUDA 13.0",
        ..HOPPER
    },
    DeviceProfile {
        name: "b200",
        device_name: "NVIDIA B200",
        compute_capability: (10, 0),
        sm_count: 148,
        memory_bytes: 183_359 * MIB,
        topology: &[(9, 16), (2, 2)],
        l2_bytes: 126 << 20,
        source: "NVIDIA's data sheet; topology assumed to be as regular as it can be",
        ..HOPPER
    },
    DeviceProfile {
        name: "rtx5090",
        device_name: "NVIDIA GeForce RTX 5090",
        compute_capability: (12, 0),
        sm_count: 170,
        memory_bytes: 32_607 * MIB,
        topology: &[(10, 16), (1, 8), (1, 2)],
        per_sm: (1536, 24, 100 * 1024),
        l2_bytes: 96 << 20,
        source: "NVIDIA's data sheet; topology assumed to be as regular as it can be",
        ..HOPPER
    },
    DeviceProfile {
        name: "gb10",
        device_name: "NVIDIA GB10",
        compute_capability: (12, 1),
        sm_count: 48,
        memory_bytes: 122_570 * MIB,
        topology: &[(3, 16)],
        per_sm: (1536, 24, 100 * 1024),
        l2_bytes: 24 << 20,
        integrated: true,
        source: "NVIDIA's data sheet; topology assumed to be as regular as it can be",
        ..HOPPER
    },
    DeviceProfile {
        name: "quad680",
        device_name: "Simulated GPU, 680 SMs",
        sm_count: 680,
        memory_bytes: 256 * 1024 * MIB,
        topology: &[(42, 16), (1, 8)],
        source: "fictional: a large part of compute capability 9.0",
        ..HOPPER
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topology_has_the_devices_sms() {
        for device in DEVICES {
            assert_eq!(device.sms().count(), device.sm_count, "{}", device.name);
            assert_eq!(device.sms().ids().len() as u32, device.sm_count);
            // They come in pairs, and a file of the user's may not say otherwise either.
            assert!(device.sm_count.is_multiple_of(2), "{}", device.name);
            assert!(device.min_sm_partition_size >= device.sm_coscheduled_alignment);
            assert!(!device.source.is_empty());
        }
    }

    #[test]
    fn every_device_goes_with_every_version() {
        assert!(cuda_versions().is_sorted());
        for device in DEVICES {
            for version in cuda_versions() {
                let spec = format!("{}@{version}", device.name);
                assert_eq!(Profile::parse(&spec).unwrap().to_string(), spec);
            }
        }
        assert_eq!(Profile::parse("2xh200@13.0").unwrap().device_count, 2);
        let newest = Profile::parse("h200@newest").unwrap().cuda_version;
        assert_eq!(Some(newest), cuda_versions().last());
    }

    #[test]
    fn bad_specs_say_what_there_is() {
        let text = |spec| Profile::parse(spec).unwrap_err().to_string();
        assert!(text("h300@13.0").contains("h200"), "{}", text("h300@13.0"));
        let newest = cuda_versions().last().unwrap().to_string();
        assert!(text("h200@9.0").contains(&newest), "{}", text("h200@9.0"));
        assert!(text("h200@").contains("11.4"));
        for spec in ["", "h200", "@13.0", "2x@13.0"] {
            assert!(
                matches!(Profile::parse(spec), Err(Error::InvalidSpec { .. })),
                "{spec:?}"
            );
        }
        assert_eq!(
            text("1000xh200@13.0"),
            "1000 devices were asked for; a simulated driver has 1 to 16"
        );
        assert!(text("0xh200@13.0").contains("1 to 16"));
    }
}

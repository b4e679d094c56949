//! Profiles of the user, from a TOML file. Values that the file omits are those of known devices of that compute
//! capability.

use std::path::Path;

use cuda_green_sys::CudaVersion;
use serde::Deserialize;
use toml::Spanned;

use super::{AMPERE, DeviceProfile, HOPPER, MAX_DEVICES, MIB, Profile, cuda_versions};
use crate::{error::Error, sync::Mutex};

/// The most SMs that a device may have: more than any real one, and still fast.
const MAX_SMS: u32 = 4096;

/// The content of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cuda_version: Spanned<String>,
    device_count: Option<Spanned<u32>>,
    device: DeviceSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceSection {
    name: Spanned<String>,
    device_name: Option<String>,
    compute_capability: Spanned<String>,
    sm_count: Spanned<u32>,
    memory_mib: Spanned<u64>,
    min_sm_partition_size: Option<Spanned<u32>>,
    sm_coscheduled_alignment: Option<Spanned<u32>>,
    topology: Option<Spanned<Vec<(u32, u32)>>>,
    integrated: Option<bool>,
    source: Option<String>,
}

/// A mistake in the file, with the byte at which it stands.
struct ParseError {
    at: Option<usize>,
    reason: String,
}

fn error_at<T, R>(at: &Spanned<T>, reason: impl Into<String>) -> Result<R, ParseError> {
    Err(ParseError {
        at: Some(at.span().start),
        reason: reason.into(),
    })
}

/// Reads the file at a path.
pub(super) fn read(path: &str) -> Result<Profile, Error> {
    let invalid = |line, reason: String| Error::InvalidProfile {
        path: Path::new(path).to_path_buf(),
        line,
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| invalid(None, error.to_string()))?;
    parse(&text).map_err(|ParseError { at, reason }| {
        let before = at.and_then(|at| text.get(..at));
        invalid(before.map(|text| text.matches('\n').count() + 1), reason)
    })
}

fn parse(text: &str) -> Result<Profile, ParseError> {
    let file: File = toml::from_str(text).map_err(|error| ParseError {
        at: error.span().map(|span| span.start),
        reason: error.message().to_owned(),
    })?;
    let version = file.cuda_version.get_ref();
    let cuda_version = match version.parse::<CudaVersion>() {
        Ok(version) if cuda_versions().any(|known| known == version) => version,
        _ => {
            let known: Vec<String> = cuda_versions().map(|known| known.to_string()).collect();
            let reason = format!(
                "`{version}` is not a CUDA version that can be simulated; use one of {}",
                known.join(", ")
            );
            return error_at(&file.cuda_version, reason);
        }
    };
    let device_count = match &file.device_count {
        None => 1,
        Some(count) if (1..=MAX_DEVICES).contains(count.get_ref()) => *count.get_ref(),
        Some(count) => {
            return error_at(count, format!("a driver has 1 to {MAX_DEVICES} devices"));
        }
    };
    Ok(Profile {
        device: interned(device(file.device)?),
        device_count,
        cuda_version,
    })
}

fn device(given: DeviceSection) -> Result<DeviceProfile, ParseError> {
    let name = given.name.get_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return error_at(
            &given.name,
            "the name must consist of letters, digits, `-` and `_`",
        );
    }
    let Some(capability) = capability(given.compute_capability.get_ref()) else {
        let reason = "the compute capability must be two numbers, at least 7.0, such as \"9.0\"";
        return error_at(&given.compute_capability, reason);
    };
    let sm_count = *given.sm_count.get_ref();
    // No known device of these capabilities has an odd number of SMs; they come in pairs.
    if sm_count == 0 || sm_count > MAX_SMS || !sm_count.is_multiple_of(2) {
        let reason = format!("the number of SMs must be even and from 2 to {MAX_SMS}");
        return error_at(&given.sm_count, reason);
    }
    let memory_bytes = match given.memory_mib.get_ref().checked_mul(MIB) {
        Some(bytes) if (1..1 << 50).contains(&bytes) => bytes,
        _ => {
            return error_at(
                &given.memory_mib,
                "memory must be more than 0 and less than 1 PiB",
            );
        }
    };
    let clusters = capability.0 >= 9;
    let base = if clusters { HOPPER } else { AMPERE };
    let min_default = match capability.0 {
        7 => 2,
        _ => base.min_sm_partition_size,
    };
    let or = |value: &Option<Spanned<u32>>, default: u32| {
        value.as_ref().map_or(default, |value| *value.get_ref())
    };
    let alignment = or(
        &given.sm_coscheduled_alignment,
        base.sm_coscheduled_alignment,
    );
    let min = or(&given.min_sm_partition_size, min_default.max(alignment));
    if let Some(value) = &given.sm_coscheduled_alignment
        && (!alignment.is_power_of_two() || alignment < 2 || alignment > sm_count)
    {
        return error_at(
            value,
            "the alignment must be a power of two, at least 2 and at most the number of SMs",
        );
    }
    if let Some(value) = &given.min_sm_partition_size
        && (min < alignment || min % alignment != 0 || min > sm_count)
    {
        let reason = format!(
            "the smallest partition must be a multiple of the alignment, {alignment}, and at most the number of SMs"
        );
        return error_at(value, reason);
    }
    let topology = match &given.topology {
        None => regular(sm_count, if clusters { 16 } else { 2 }),
        Some(topology) => {
            let groups = topology.get_ref();
            if groups
                .iter()
                .any(|(_, size)| *size == 0 || !size.is_multiple_of(2))
            {
                return error_at(
                    topology,
                    "SMs come in pairs, so a group must have an even number of them, at least 2",
                );
            }
            // Each number is checked first, so that no sum and no list grows without bounds.
            let too_many = |(count, size): &(u32, u32)| *count > sm_count || *size > sm_count;
            if groups.len() as u64 > u64::from(sm_count) || groups.iter().any(too_many) {
                let reason = format!(
                    "the device has only {sm_count} SMs; a group, or the number of groups, is larger"
                );
                return error_at(topology, reason);
            }
            if groups
                .iter()
                .all(|(count, size)| *count == 0 || *size < alignment)
            {
                let reason = format!(
                    "no group has the {alignment} SMs of the alignment, so every split would be refused"
                );
                return error_at(topology, reason);
            }
            let sum: u64 = groups
                .iter()
                .map(|(count, size)| u64::from(*count) * u64::from(*size))
                .sum();
            if sum != u64::from(sm_count) {
                let reason = format!("the groups have {sum} SMs, but the device has {sm_count}");
                return error_at(topology, reason);
            }
            topology.get_ref().clone()
        }
    };
    let units: u32 = topology
        .iter()
        .map(|(count, size)| count * (size / alignment))
        .sum();
    if min > sm_count || units == 0 {
        let reason = format!(
            "{sm_count} SMs have no room for a single partition, which needs at least {min}, {alignment} of them co-scheduled"
        );
        return error_at(&given.sm_count, reason);
    }
    for (what, text) in [
        ("device_name", given.device_name.as_deref()),
        ("source", given.source.as_deref()),
    ] {
        if text.is_some_and(|text| text.chars().any(char::is_control)) {
            return Err(ParseError {
                at: Some(given.name.span().start),
                reason: format!(
                    "{what} contains a control character, which could change the terminal"
                ),
            });
        }
    }
    let leak = |text: String| -> &'static str { String::leak(text) };
    Ok(DeviceProfile {
        device_name: leak(given.device_name.unwrap_or_else(|| name.clone())),
        name: leak(name.clone()),
        compute_capability: capability,
        sm_count,
        memory_bytes,
        min_sm_partition_size: min,
        sm_coscheduled_alignment: alignment,
        source: leak(given.source.unwrap_or_else(|| "the user's file".to_owned())),
        topology: Vec::leak(topology),
        integrated: given.integrated.unwrap_or(false),
        ..base
    })
}

fn capability(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    let capability: (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    ((7..100).contains(&capability.0) && capability.1 < 10).then_some(capability)
}

/// Returns the most regular topology: groups of this size, and one of the rest.
fn regular(sm_count: u32, size: u32) -> Vec<(u32, u32)> {
    [(sm_count / size, size), (1, sm_count % size)]
        .into_iter()
        .filter(|(count, size)| count * size > 0)
        .collect()
}

/// Returns the device for the rest of the process, like a built-in one. Equal devices are stored once.
fn interned(device: DeviceProfile) -> &'static DeviceProfile {
    static INTERNED: Mutex<Vec<&'static DeviceProfile>> = Mutex::new(Vec::new());
    let mut all = INTERNED.lock();
    if let Some(known) = all.iter().find(|known| ***known == device) {
        return known;
    }
    let device: &'static DeviceProfile = Box::leak(Box::new(device));
    all.push(device);
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "cuda_version = \"13.1\"\n\
        device_count = 2\n\
        \n\
        [device]\n\
        name = \"big\"\n\
        compute_capability = \"9.0\"\n\
        sm_count = 200\n\
        memory_mib = 1024\n";

    #[test]
    fn what_is_left_out_is_as_on_known_devices() {
        let profile = parse(GOOD).ok().unwrap();
        assert_eq!(profile.to_string(), "2xbig@13.1 (of a file)");
        let device = profile.device;
        assert_eq!(
            (device.min_sm_partition_size, device.sms().count()),
            (8, 200)
        );
        assert_eq!(device.topology, [(12, 16), (1, 8)]);
        let again = parse(GOOD).ok().unwrap();
        assert!(std::ptr::eq(again.device, device), "kept once");
    }

    #[test]
    fn each_mistake_is_told_with_its_line() {
        for (from, to, line, reason) in [
            ("13.1", "9.1", 1, "11.4, 11.5"),
            ("= 2\n", "= 99\n", 2, "16 devices"),
            ("= 2\n", "= many\n", 2, ""),
            ("\"big\"", "\"so big\"", 5, "letters"),
            ("\"9.0\"", "\"nine\"", 6, "two numbers"),
            ("= 200", "= 201", 7, "even"),
            ("= 200", "= 200\nsms = 3", 8, "sms"),
            ("= 1024", "= 0", 8, "PiB"),
            ("= 1024\n", "= 1024\ntopology = [[6, 16]]\n", 9, "96 SMs"),
            (
                "= 1024\n",
                "= 1024\nmin_sm_partition_size = 12\n",
                9,
                "multiple",
            ),
            (
                "= 1024\n",
                "= 1024\nsm_coscheduled_alignment = 3\n",
                9,
                "power",
            ),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let ParseError { at, reason: said } = parse(&text).err().unwrap();
            let told = at.map(|at| text[..at].matches('\n').count() + 1);
            assert_eq!(told, Some(line), "{text}: {said}");
            assert!(said.contains(reason), "{text}: {said}");
        }
    }
}

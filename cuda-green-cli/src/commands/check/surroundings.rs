//! Conditions that weaken partitions: the environment of the process, and the state of the device.
//!
//! Sources: the CUDA programming guide, environment variables; the guide of MPS; the CUDA 13.5 header for the
//! attributes and compute modes. A process cannot see others, only whether there may be some.

use cuda_green::{ComputeMode, MpsDaemon, MpsStatus};

use super::finding::Finding;

/// The driver's default number of queues to the device (CUDA programming guide).
const CONNECTIONS: u32 = 8;

/// Reports what the environment of this process does to partitions.
pub fn environment(value: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if value("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value == "1") {
        findings.push(Finding::bad(
            "CUDA_LAUNCH_BLOCKING=1: every launch waits for its kernel, so a thread never has work in two partitions at once",
            "Unset it; it is for finding faults.",
        ));
    }
    let connections = value("CUDA_DEVICE_MAX_CONNECTIONS");
    if let Some(few) = connections.filter(|text| text.parse().is_ok_and(|n: u32| n < CONNECTIONS)) {
        findings.push(Finding::note(
            format!(
                "CUDA_DEVICE_MAX_CONNECTIONS={few}: the streams of all partitions share so few queues to the device that work of one can wait behind another's before it starts"
            ),
            format!("Unset it, or allow a queue for each stream ({CONNECTIONS} by default, 32 at most)."),
        ));
    }
    let percentage = value("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    if let Some(percentage) = percentage.filter(|value| value != "100") {
        findings.push(Finding::note(
            format!(
                "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={percentage}: under MPS, it limits this process's SMs, and the driver makes no partitions within that limit"
            ),
            "Unset it or set it to 100: either MPS or green contexts should divide the SMs, not both.",
        ));
    }
    if let Some(partition) = value("CUDA_MPS_SM_PARTITION") {
        findings.push(Finding::note(
            format!("CUDA_MPS_SM_PARTITION={partition}: under MPS, this process has only a part of the SMs"),
            "Choose sizes of partitions from what `cuda-green info` counts here, or unset it.",
        ));
    }
    if let Some(devices) = value("CUDA_VISIBLE_DEVICES") {
        let (what, mend) = if devices.starts_with("MIG-") {
            (
                "a MIG instance with its own SMs and memory, which partitions divide",
                "No action is needed; a process sees one such instance.",
            )
        } else {
            (
                "it chooses and orders the devices, so device 0 may be any of the machine's",
                "If a process needs a certain device, name it by its UUID, which `nvidia-smi -L` prints.",
            )
        };
        findings.push(Finding::note(
            format!("CUDA_VISIBLE_DEVICES={devices}: {what}"),
            mend,
        ));
    }
    findings
}

/// Reports what MPS and the state of the device do to partitions: whether other processes can use the device beside this one.
pub fn device(mps: &MpsStatus) -> Vec<Finding> {
    let mut findings = shared(mps.compute_mode, mps.in_use);
    match (&mps.daemon, mps.in_use) {
        (MpsDaemon::Unreachable { reason }, _) => findings.push(Finding::note(
            format!("the pipes of an MPS daemon are in {}, but it does not answer: {reason}", mps.pipes.display()),
            "If it has ended, remove the folder; if not, put `nvidia-cuda-mps-control` into PATH, and start this in one \
             namespace with it.",
        )),
        (MpsDaemon::Running { .. }, false) => findings.push(Finding::note(
            format!("an MPS {} runs, with pipes in {}, but this process does not use the device through it", mps.daemon, mps.pipes.display()),
            "Its logs say why: `control.log` and `server.log` in CUDA_MPS_LOG_DIRECTORY or /var/log/nvidia-mps. A daemon \
             that was started with another CUDA_VISIBLE_DEVICES does not serve this device.",
        )),
        _ => {}
    }
    if let (true, Some(priority)) = (mps.in_use, &mps.client_priority) {
        findings.push(Finding::note(
            format!("CUDA_MPS_CLIENT_PRIORITY={priority}: it orders blocks that wait for an SM, and reserves none"),
            "Beside a flood in another process a request took 1.7 ms with it, and 0.15 ms in a partition (p99, H200).",
        ));
    }
    if mps.is_mig {
        findings.push(Finding::note(
            "the device is a MIG instance: its memory, caches and faults are kept from other instances by the hardware",
            "Partitions divide its SMs further; processes in other instances need none.",
        ));
    }
    findings
}

/// Reports whether other processes can use the device beside this one, by its compute mode and MPS.
fn shared(compute_mode: Option<ComputeMode>, under_mps: bool) -> Vec<Finding> {
    if under_mps {
        return vec![Finding::note(
            "MPS is in use: other processes can run on this device at the same time, including on the SMs of every partition",
            "Processes that join one plan (`SmPartitionManager::join`) keep to partitions of it: `cuda-green partitions` \
             shows it, `cuda-green check --processes` tests it. Keep others off the device. From CUDA 13.1 on, MPS can divide \
             the SMs itself (`nvidia-cuda-mps-control -d -S`).",
        )];
    }
    match compute_mode {
        Some(ComputeMode::Default) => vec![Finding::note(
            "the compute mode lets other processes use this device; they would take turns with this one on all SMs, and it cannot tell whether there are any",
            "`nvidia-smi` lists them; `sudo nvidia-smi -c EXCLUSIVE_PROCESS` keeps them off.",
        )],
        Some(ComputeMode::ExclusiveProcess) => vec![Finding::good(
            "the compute mode keeps other processes off this device",
        )],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::finding::Grade;

    /// Returns the findings with these variables set.
    fn said(variables: &[(&str, &str)]) -> Vec<(Grade, String)> {
        let value = |name: &str| {
            let found = variables.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let findings = environment(value).into_iter();
        findings
            .map(|finding| {
                assert!(finding.mend.is_some(), "{finding:?}");
                (finding.grade, finding.what)
            })
            .collect()
    }

    #[test]
    fn an_environment_that_weakens_partitions_is_told() {
        for (name, value, grade, text) in [
            (
                "CUDA_LAUNCH_BLOCKING",
                "1",
                Grade::Bad,
                "every launch waits",
            ),
            (
                "CUDA_DEVICE_MAX_CONNECTIONS",
                "1",
                Grade::Note,
                "so few queues",
            ),
            (
                "CUDA_DEVICE_MAX_CONNECTIONS",
                "7",
                Grade::Note,
                "so few queues",
            ),
            (
                "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
                "50",
                Grade::Note,
                "limits this process's SMs",
            ),
            (
                "CUDA_MPS_SM_PARTITION",
                "abc",
                Grade::Note,
                "a part of the SMs",
            ),
            (
                "CUDA_VISIBLE_DEVICES",
                "2,1",
                Grade::Note,
                "orders the devices",
            ),
            (
                "CUDA_VISIBLE_DEVICES",
                "MIG-12",
                Grade::Note,
                "a MIG instance",
            ),
        ] {
            let said = said(&[(name, value)]);
            assert_eq!(said.len(), 1, "{name}={value}");
            assert_eq!(said[0].0, grade, "{name}={value}");
            assert!(
                said[0].1.starts_with(&format!("{name}={value}: ")),
                "{}",
                said[0].1
            );
            assert!(said[0].1.contains(text), "{}", said[0].1);
        }
    }

    #[test]
    fn an_environment_that_does_not_is_not() {
        assert_eq!(said(&[]), []);
        for (name, value) in [
            ("CUDA_LAUNCH_BLOCKING", "0"),
            ("CUDA_DEVICE_MAX_CONNECTIONS", "8"),
            ("CUDA_DEVICE_MAX_CONNECTIONS", "32"),
            ("CUDA_DEVICE_MAX_CONNECTIONS", "many"),
            ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100"),
        ] {
            assert_eq!(said(&[(name, value)]), [], "{name}={value}");
        }
    }

    #[test]
    fn other_processes_are_told_by_what_the_device_says() {
        let said = |mode, mps| {
            let findings = shared(mode, mps);
            findings.first().map(|one| (one.grade, one.what.clone()))
        };
        let is = |found: Option<(Grade, String)>, grade, text| {
            found.is_some_and(|(one, what)| one == grade && what.contains(text))
        };
        use ComputeMode::{Default, ExclusiveProcess, Prohibited};
        assert!(is(said(Some(Default), false), Grade::Note, "take turns"));
        assert!(is(
            said(Some(ExclusiveProcess), false),
            Grade::Good,
            "keeps other processes off"
        ));
        assert!(is(
            said(Some(ExclusiveProcess), true),
            Grade::Note,
            "MPS is in use"
        ));
        assert_eq!(said(None, false), None);
        assert_eq!(said(Some(Prohibited), false), None);
    }
}

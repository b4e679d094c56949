//! `cuda-green check`: whether partitions hold here, what is wrong, and how to mend it.

use std::{env, process::ExitCode};

use cuda_green::CudaDevice;
use serde_json::json;

use crate::{
    args::Global,
    map,
    report::{self, GREEN, RED, YELLOW},
    request,
};

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// Worth knowing; it breaks nothing by itself.
    Note,
    /// Partitions do not hold.
    Bad,
}

struct Finding {
    grade: Grade,
    what: String,
    /// What to do about it.
    mend: Option<&'static str>,
}

pub fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    let mut findings = environment(|name| env::var(name).ok());
    findings.extend(partitions(&device)?);
    findings.push(primary(&device));
    let holds = findings.iter().all(|finding| finding.grade != Grade::Bad);
    if global.json {
        let list = findings.iter().map(|finding| {
            let grade = match finding.grade {
                Grade::Good => "good",
                Grade::Note => "note",
                Grade::Bad => "bad",
            };
            json!({ "grade": grade, "what": finding.what, "mend": finding.mend })
        });
        let found = json!({ "partitions_hold": holds, "findings": list.collect::<Vec<_>>() });
        let command = "cuda-green check --json";
        report::print(&report::json(&device, command, "check", found))?;
    } else {
        anstream::println!("{}\n", report::heading(&device));
        for Finding { grade, what, mend } in &findings {
            let (style, sign) = match grade {
                Grade::Good => (GREEN, "good"),
                Grade::Note => (YELLOW, "note"),
                Grade::Bad => (RED, "bad "),
            };
            anstream::println!("{style}{sign}{style:#}  {}", indented(what).trim_start());
            if let Some(mend) = mend {
                anstream::println!("{}", indented(mend));
            }
        }
    }
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Within 80 columns, beside the grade.
fn indented(text: &str) -> String {
    let options = textwrap::Options::new(80)
        .initial_indent("      ")
        .subsequent_indent("      ");
    textwrap::fill(text, options)
}

/// What the environment of this process does to partitions.
fn environment(value: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let is = |name: &str, expected: &str| value(name).is_some_and(|value| value == expected);
    let mut findings = Vec::new();
    if is("CUDA_LAUNCH_BLOCKING", "1") {
        findings.push(Finding {
            grade: Grade::Bad,
            what: "CUDA_LAUNCH_BLOCKING=1: every launch waits for its kernel".into(),
            mend: Some("Unset it; it is for finding faults."),
        });
    }
    if is("CUDA_DEVICE_MAX_CONNECTIONS", "1") {
        findings.push(Finding {
            grade: Grade::Note,
            what: "CUDA_DEVICE_MAX_CONNECTIONS=1: all streams share one queue to the device".into(),
            mend: Some(
                "Unset it, or work in one partition can hold up another's before it starts.",
            ),
        });
    }
    if let Some(percentage) = value("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") {
        findings.push(Finding {
            grade: Grade::Note,
            what: format!(
                "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={percentage}: MPS limits this process's SMs"
            ),
            mend: Some(
                "Partitions divide what MPS leaves; give either the job of dividing, not both.",
            ),
        });
    }
    findings
}

/// Whether partitions run where they should: four equal ones, by the SMs that their blocks saw.
fn partitions(device: &CudaDevice) -> anyhow::Result<Vec<Finding>> {
    if let Some(reason) = device.missing_features() {
        return Ok(vec![Finding {
            grade: Grade::Bad,
            what: format!("this device cannot be partitioned: {reason}"),
            mend: Some(
                "Programs run in single-context mode, where nothing is isolated. A newer driver helps \
                 where the device is of compute capability 6.0 or later.",
            ),
        }]);
    }
    let quad = request::quad(device.properties().multiprocessor_count);
    let verified = map::verify(device, &quad)?;
    let sizes: Vec<String> = verified
        .contexts
        .iter()
        .map(|(_, sms)| sms.len().to_string())
        .collect();
    let mut findings = Vec::new();
    if verified.is_isolated() {
        findings.push(Finding {
            grade: Grade::Good,
            what: format!(
                "four partitions ran on {} SMs, none on another's",
                sizes.join(", ")
            ),
            mend: None,
        });
    }
    for overlap in &verified.overlaps {
        let ([one, other], sms) = (&overlap.between, &overlap.sms);
        findings.push(Finding {
            grade: Grade::Bad,
            what: format!("partitions {one} and {other} ran on {} SMs both", sms.len()),
            mend: Some(
                "This must not be; please report it with the output of `cuda-green info --json`.",
            ),
        });
    }
    for miscount in &verified.miscounted {
        let (index, says, seen) = (miscount.id, miscount.sm_count, miscount.observed);
        findings.push(Finding {
            grade: Grade::Bad,
            what: format!("partition {index} has {says} SMs, but ran on {seen}"),
            mend: Some(
                "If the GPU was busy, try again when it is idle; otherwise please report it.",
            ),
        });
    }
    Ok(findings)
}

/// What no partition can help against.
fn primary(device: &CudaDevice) -> Finding {
    Finding {
        grade: Grade::Note,
        what: format!(
            "work left in the primary context, default streams included, runs on all {} SMs",
            device.properties().multiprocessor_count
        ),
        mend: Some(
            "Give everything else in the process a partition too; \
             `SmPartitionManager::verify` and `check_streams` find what is left.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_that_spoils_partitions_is_told() {
        assert!(environment(|_| None).is_empty());
        let all = environment(|_| Some("1".into()));
        assert_eq!(all.len(), 3);
        assert_eq!(
            all.iter()
                .filter(|finding| finding.grade == Grade::Bad)
                .count(),
            1
        );
        assert!(all.iter().all(|finding| finding.mend.is_some()));
    }
}

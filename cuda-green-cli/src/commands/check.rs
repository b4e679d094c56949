//! `cuda-green check`: a check whether partitions hold on this machine, with advice on what is wrong.

mod finding;
mod processes;
mod surroundings;

use std::{env, process::ExitCode, time::Duration};

use cuda_green::{ContextProbe, CudaDevice, Error, Probe, Verification, VerificationMethod};
use finding::{Finding, Grade};
use serde_json::{Value, json};

use crate::{
    args::Global,
    partitions::{partitioned, quad, without_partitions},
    render::{
        chip::ranges,
        json,
        page::{Page, heading, printable},
        style::{GREEN, RED, YELLOW},
    },
};

pub fn run(global: &Global, processes: bool) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    let mut findings = partitions(&device)?;
    // A simulator in this process ignores the variable; one that stands in for libcuda does not.
    let in_process = device.driver().simulator().is_some();
    let heeded = |name: &str| !in_process || name != "CUDA_VISIBLE_DEVICES";
    let value = |name: &str| env::var(name).ok().filter(|_| heeded(name));
    findings.extend(surroundings::environment(value));
    let mps = device.mps_status()?;
    findings.extend(surroundings::device(&mps));
    if processes && device.missing_features().is_none() {
        findings.push(processes::apart(global, &device, &mps)?);
    }
    findings.extend(always(&device));
    let holds = findings.iter().all(|finding| finding.grade != Grade::Bad);
    if global.json {
        let processes = if processes { " --processes" } else { "" };
        let command = format!("cuda-green check{processes} --json");
        let found = found(&findings, holds);
        json::print(&json::report(&device, &command, "check", found))?;
    } else {
        page(&device, &findings, holds).print()?;
    }
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn found(findings: &[Finding], holds: bool) -> Value {
    let list = findings.iter().map(|finding| {
        let grade = match finding.grade {
            Grade::Good => "good",
            Grade::Note => "note",
            Grade::Bad => "bad",
        };
        json!({ "grade": grade, "what": finding.what, "mend": finding.mend })
    });
    json!({ "partitions_hold": holds, "findings": list.collect::<Vec<_>>() })
}

fn page(device: &CudaDevice, findings: &[Finding], holds: bool) -> Page {
    let mut page = Page::new();
    page.line(heading(device));
    page.gap();
    let next = findings.iter().skip(1).map(Some).chain([None]);
    for (Finding { grade, what, mend }, next) in findings.iter().zip(next) {
        let (style, sign) = match grade {
            Grade::Good => (GREEN, "good"),
            Grade::Note => (YELLOW, "note"),
            Grade::Bad => (RED, "bad "),
        };
        page.hanging(
            &format!("{style}{sign}{style:#}  "),
            "      ",
            printable(what),
        );
        // Advice that several findings in a row share stands after the last.
        let told_later = next.is_some_and(|next| next.mend == *mend);
        if let (Some(mend), false) = (mend, told_later) {
            page.hanging("      -> ", "         ", printable(mend));
        }
    }
    page.gap();
    page.line(if holds {
        format!("{GREEN}Partitions hold here.{GREEN:#}")
    } else {
        format!("{RED}Partitions do not hold here: see the findings marked bad.{RED:#}")
    });
    page
}

/// Checks whether four equal partitions run where they should, and whether other work runs there.
fn partitions(device: &CudaDevice) -> anyhow::Result<Vec<Finding>> {
    if let Some(reason) = device.missing_features() {
        return Ok(vec![Finding::bad(
            format!("this device cannot be partitioned: {reason}"),
            without_partitions(device),
        )]);
    }
    let quad = quad(device.properties().multiprocessor_count);
    let manager = match partitioned(device, &quad) {
        Ok(manager) => manager,
        Err(error) => {
            return match error.downcast_ref() {
                Some(Error::LimitedByMps {
                    sm_count, limit, ..
                }) => Ok(vec![Finding::bad(
                    format!(
                        "MPS limits this process to {sm_count} SMs, and the driver makes no partitions within \
                         that limit"
                    ),
                    format!("It comes from {limit}, so that partitions divide the SMs instead."),
                )]),
                _ => Err(error),
            };
        }
    };
    let mut findings = verified(&manager.verify()?);
    findings.push(probed(&manager.probe()?));
    Ok(findings)
}

/// Reports whether the partitions, which are idle, are alone on their SMs.
fn probed(probe: &Probe<usize>) -> Finding {
    let disturbed = probe.contexts.iter().filter_map(|(index, seen)| {
        let ContextProbe::Disturbed { longest_delay, .. } = seen else {
            return None;
        };
        Some((index + 1, *longest_delay))
    });
    let disturbed: Vec<(usize, Duration)> = disturbed.collect();
    let Some(longest) = disturbed.iter().map(|(_, delay)| *delay).max() else {
        return Finding::good("no other work was seen on the SMs of the four, which were idle");
    };
    let numbers: Vec<String> = disturbed
        .iter()
        .map(|(number, _)| number.to_string())
        .collect();
    Finding::bad(
        format!(
            "other work runs on the SMs of partition {} of four, which this process left idle: blocks started up to {longest:.1?} late",
            numbers.join(", ")
        ),
        "Other processes use this GPU (`nvidia-smi` lists them), and partitions do not keep them off. Run them \
         elsewhere or at other times, or in green contexts of the same split under MPS.",
    )
}

/// Reports on which SMs the partitions ran. Partitions are numbered from 1.
fn verified(verified: &Verification<usize>) -> Vec<Finding> {
    let contexts = verified.contexts.iter();
    let sizes: Vec<String> = contexts.map(|(_, sms)| sms.len().to_string()).collect();
    let mut findings = Vec::new();
    if verified.is_isolated() {
        let how = match verified.method {
            VerificationMethod::Residency => {
                "and blocks that fill all of them ran at the same time (under MPS, ids of SMs mean nothing)"
            }
            _ => "and no two shared an SM",
        };
        findings.push(Finding::good(format!(
            "four partitions ran on {} SMs, {how}",
            sizes.join(", ")
        )));
    }
    for overlap in &verified.overlaps {
        let ([one, other], sms) = (overlap.between, &overlap.sms);
        let overlap_text = if sms.is_empty() {
            "could not run at the same time: they share SMs, or other work keeps them busy"
                .to_owned()
        } else {
            format!("both ran on {} SMs: {}", sms.len(), ranges(sms))
        };
        findings.push(Finding::bad(
            format!("partitions {} and {} of four {overlap_text}", one + 1, other + 1),
            "The driver does not keep them apart, so nothing in either is isolated from the other. Please \
             report it with the output of `cuda-green info --json`, and try another driver.",
        ));
    }
    for miscount in &verified.miscounted {
        let (index, says, seen) = (miscount.id, miscount.sm_count, miscount.observed);
        findings.push(Finding::bad(
            format!(
                "partition {} of four has {says} SMs according to the driver, but ran on {seen}",
                index + 1
            ),
            "If the GPU was busy, try again when it is idle; otherwise please report it.",
        ));
    }
    findings
}

/// Returns the limits of every partition.
fn always(device: &CudaDevice) -> [Finding; 2] {
    [
        Finding::note(
            format!(
                "work in the primary context, including its default streams, runs on all {} SMs",
                device.properties().multiprocessor_count
            ),
            "Give all other work of the process a partition too. `SmPartitionManager::check_streams` checks the streams that you list, and `probe` finds other work while it runs.",
        ),
        Finding::note(
            "partitions divide SMs, not memory bandwidth: beside a flood of memory traffic, a memory-bound request took 1.9 times as long (H200)",
            "Run such work at another time, or on another GPU or MIG instance.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_violation_is_named() {
        let driver = cuda_green::Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
        let device = driver.device(0).unwrap();
        let simulator = driver.simulator().unwrap();
        simulator.inject("green#2=everywhere".parse().unwrap());
        let findings = partitions(&device).unwrap();
        let said: Vec<&str> = findings.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(said.len(), 5, "{said:?}");
        assert!(said[0].starts_with("partitions 1 and 2 of four both ran on 32 SMs: 0-"));
        assert!(said[1].starts_with("partitions 2 and 3 of four both ran on 32 SMs: "));
        assert!(said[2].starts_with("partitions 2 and 4 of four both ran on 36 SMs: "));
        assert_eq!(
            said[3],
            "partition 2 of four has 32 SMs according to the driver, but ran on 132"
        );
        assert_eq!(
            said[4],
            "no other work was seen on the SMs of the four, which were idle"
        );
        assert!(
            findings[..4]
                .iter()
                .all(|one| one.grade == Grade::Bad && one.mend.is_some())
        );
    }
}

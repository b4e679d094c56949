//! `cuda-green map`: where each partition's blocks really run, measured and drawn.

use std::{path::Path, process::ExitCode};

use cuda_green::{
    ContextPolicy, CudaDevice, SmPartitionManager, Verification, VerificationMethod,
    planner::PartitionRequest,
};
use serde_json::{Value, json};

use crate::{
    args::Global,
    chip::{Chip, Partition},
    out::OutputFile,
    page::Page,
    report::{self, RED, wrote},
    request::Sizes,
};

pub fn run(global: &Global, sizes: &Sizes, svg: Option<&Path>) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    let file = svg.map(OutputFile::open).transpose()?;
    let total = device.properties().multiprocessor_count;
    let asked = sizes.requests(total);
    let verified = partitioned(&device, &asked)?.verify()?;
    let by_ids = verified.method == VerificationMethod::SmIds;
    anyhow::ensure!(
        by_ids || svg.is_none(),
        "no picture can be drawn: {IDS_UNDER_MPS}; `cuda-green map` says whether the partitions are apart"
    );
    let partitions = verified.contexts.iter().map(|(index, sms)| Partition {
        name: name(*index, &asked),
        sms: sms.clone(),
    });
    let chip = Chip {
        total,
        partitions: partitions.collect(),
    };
    if let Some(file) = file {
        let title = format!("{}: SMs that each partition ran on", device.name());
        let note = device.driver().is_simulated().then_some("SIMULATED");
        file.write(&chip.svg(&title, note))?;
    }
    if global.json {
        let command = format!("cuda-green map{} --json", sizes.text());
        let found = if by_ids {
            found(&chip)
        } else {
            counted(&verified, &asked)
        };
        report::print(&report::json(&device, &command, "map", found))?;
    } else {
        let mut page = Page::new();
        page.line(report::heading(&device));
        page.gap();
        if let Some(reason) = device.missing_features() {
            page.line(format!(
                "single-context mode, nothing is isolated: {reason}"
            ));
            page.gap();
        }
        if by_ids {
            chip.draw(&mut page);
            page.gap();
            chip.legend(&mut page);
        } else {
            page.line(format!("No map can be drawn: {IDS_UNDER_MPS}."));
            page.gap();
            for (index, sms) in &verified.contexts {
                page.line(format!("{:>4} SMs: {}", sms.len(), name(*index, &asked)));
            }
            if verified.is_isolated() {
                page.gap();
                page.line(
                    "Blocks that fill all of them ran at once, so none shares an SM with another.",
                );
            }
        }
        let sm_counts = verified.contexts.iter().map(|(_, sms)| sms.len() as u32);
        if device.missing_features().is_none()
            && let Some(note) = sizes.unequal(&device, &sm_counts.collect::<Vec<_>>())
        {
            page.gap();
            page.hanging("", "", note);
        }
        if device.missing_features().is_none() && !verified.is_isolated() {
            page.gap();
            page.line(format!(
                "{RED}Partitions do not hold here: see `cuda-green check`.{RED:#}"
            ));
        }
        if let Some(path) = svg {
            page.gap();
            page.line(wrote(path));
        }
        page.print()?;
    }
    Ok(if verified.is_isolated() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The reason why a map is impossible under MPS.
const IDS_UNDER_MPS: &str = "under MPS the ids of SMs are numbered anew in each context";

/// Makes the partitions, under their places in the list.
pub fn partitioned(
    device: &CudaDevice,
    asked: &[(String, PartitionRequest)],
) -> anyhow::Result<SmPartitionManager<usize>> {
    let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(device)?;
    let policy = ContextPolicy::default();
    let partitions = asked.iter().enumerate();
    let partitions: Vec<_> = partitions
        .map(|(index, (_, request))| (index, *request, policy))
        .collect();
    manager.create_partitions(&partitions)?;
    Ok(manager)
}

fn name(index: usize, asked: &[(String, PartitionRequest)]) -> String {
    asked
        .get(index)
        .map(|(text, _)| text.clone())
        .unwrap_or_default()
}

/// What is known where ids mean nothing: how many SMs each partition ran on, and whether none is shared.
fn counted(verified: &Verification<usize>, asked: &[(String, PartitionRequest)]) -> Value {
    let partitions = verified.contexts.iter();
    let partitions = partitions
        .map(|(index, sms)| json!({ "asked": name(*index, asked), "sm_count": sms.len() }));
    json!({
        "partitions": partitions.collect::<Vec<_>>(),
        "isolated": verified.is_isolated(),
        "note": IDS_UNDER_MPS,
    })
}

fn found(chip: &Chip) -> Value {
    let (stranded, shared) = chip.stranded_and_shared();
    let partitions: Vec<Value> = chip
        .partitions
        .iter()
        .map(|partition| json!({ "asked": partition.name, "sm_ids": partition.sms }))
        .collect();
    json!({ "partitions": partitions, "nobodys_sms": stranded.len(), "shared_sms": shared.len() })
}

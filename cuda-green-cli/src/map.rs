//! `cuda-green map`: where each partition's blocks really run, measured and drawn.

use std::{fs, path::Path, process::ExitCode};

use anyhow::Context;
use cuda_green::{
    CudaDevice, GreenContextConfig, SmPartitionManager, Verification, planner::PartitionRequest,
};
use serde_json::{Value, json};

use crate::{
    args::Global,
    chip::{Chip, Partition},
    page::Page,
    report::{self, RED},
    request::Sizes,
};

pub fn run(global: &Global, sizes: &Sizes, svg: Option<&Path>) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    let total = device.properties().multiprocessor_count;
    let asked = sizes.requests(total);
    let verified = verify(&device, &asked)?;
    let partitions = verified.contexts.iter().map(|(index, sms)| Partition {
        name: name(*index, &asked),
        sms: sms.clone(),
    });
    let chip = Chip {
        total,
        partitions: partitions.collect(),
    };
    if let Some(path) = svg {
        let title = format!("{}: SMs that each partition ran on", device.name());
        let note = device.driver().is_simulated().then_some("SIMULATED");
        fs::write(path, chip.svg(&title, note)).with_context(|| path.display().to_string())?;
    }
    if global.json {
        let command = format!("cuda-green map{} --json", sizes.text());
        report::print(&report::json(&device, &command, "map", found(&chip)))?;
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
        chip.draw(&mut page);
        page.gap();
        chip.legend(&mut page);
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
            page.line(format!("wrote {}", path.display()));
        }
        page.print()?;
    }
    Ok(if verified.is_isolated() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Makes the partitions, runs the kernel that tells its SM in each, and destroys them.
pub fn verify(
    device: &CudaDevice,
    asked: &[(String, PartitionRequest)],
) -> anyhow::Result<Verification<usize>> {
    let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(device)?;
    let config = GreenContextConfig::default();
    let partitions = asked.iter().enumerate();
    let partitions: Vec<_> = partitions
        .map(|(index, (_, request))| (index, *request, config))
        .collect();
    manager.create_partitions(&partitions)?;
    Ok(manager.verify()?)
}

fn name(index: usize, asked: &[(String, PartitionRequest)]) -> String {
    asked
        .get(index)
        .map(|(text, _)| text.clone())
        .unwrap_or_default()
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

//! `cuda-green plan`: the exact split that a driver would make, before it is made.

use std::process::ExitCode;

use cuda_green::{
    CudaDevice, SmPartitionManager,
    planner::{Plan, SplitCall},
};
use serde_json::{Value, json};

use crate::{
    args::Global,
    report::{self, BOLD, GREEN, YELLOW},
    request::Sizes,
};

pub fn run(global: &Global, sizes: &Sizes) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    let asked = sizes.requests(device.properties().multiprocessor_count);
    let (texts, requests): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    if let Some(reason) = device.missing_features() {
        anyhow::bail!("{} cannot be partitioned: {reason}", device.name());
    }
    let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(&device)?;
    let plan = manager.plan(&requests)?;
    if global.json {
        let command = format!("cuda-green plan{} --json", sizes.text());
        report::print(&report::json(
            &device,
            &command,
            "plan",
            found(&texts, &plan),
        ))?;
    } else {
        print(&device, &texts, &plan);
    }
    Ok(ExitCode::SUCCESS)
}

fn found(texts: &[String], plan: &Plan) -> Value {
    let partitions: Vec<Value> = texts
        .iter()
        .zip(&plan.partitions)
        .map(|(text, partition)| {
            json!({
                "asked": text,
                "requested_sms": partition.requested,
                "sm_count": partition.sm_count,
                "coscheduled_sms": partition.coscheduled,
                "max_cluster": partition.max_cluster,
                "parts": partition.parts.len(),
            })
        })
        .collect();
    json!({
        "strategy": plan.strategy.to_string(),
        "call": call(&plan.call),
        "nested_splits": plan.nested,
        "partitions": partitions,
        "left_over_sms": plan.left_over,
        "stranded_sms": plan.stranded,
        "stranded_reason": plan.stranded_reason,
        "refused": plan.refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The driver call, as far as people read it.
fn call(call: &SplitCall) -> String {
    match call {
        SplitCall::Structured(groups) => {
            format!("cuDevSmResourceSplit into {} groups", groups.len())
        }
        SplitCall::ByCount {
            groups,
            min_count,
            fine,
        } => {
            let flag = if *fine { ", co-scheduling ignored" } else { "" };
            format!("cuDevSmResourceSplitByCount into {groups} groups of {min_count}{flag}")
        }
        other => format!("{other:?}"),
    }
}

fn print(device: &CudaDevice, texts: &[String], plan: &Plan) {
    anstream::println!("{}\n", report::heading(device));
    anstream::println!(
        "{BOLD}{:<12} {:>5} {:>8}{BOLD:#}",
        "asked",
        "SMs",
        "cluster"
    );
    for (text, partition) in texts.iter().zip(&plan.partitions) {
        anstream::println!(
            "{text:<12} {:>5} {:>8}",
            partition.sm_count,
            partition.max_cluster
        );
    }
    anstream::println!("\nby {}: {}", plan.strategy, call(&plan.call));
    if !plan.nested.is_empty() {
        let sizes: Vec<String> = plan.nested.iter().map(u32::to_string).collect();
        anstream::println!("then, of what is left each time: {}", sizes.join(", "));
    }
    for refused in &plan.refused {
        anstream::println!(
            "{YELLOW}refused by the driver, for the chip's topology: {refused}{YELLOW:#}"
        );
    }
    let style = if plan.stranded == 0 { GREEN } else { YELLOW };
    anstream::println!(
        "{style}{} SMs left for others, {} stranded{style:#}",
        plan.left_over,
        plan.stranded
    );
    if let Some(reason) = &plan.stranded_reason {
        anstream::println!("{reason}");
    }
}

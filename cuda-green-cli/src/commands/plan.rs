//! `cuda-green plan`: the exact split that a driver would make, before it is made.

use std::process::ExitCode;

use cuda_green::{
    CudaDevice, SmPartitionManager,
    planner::{Plan, SplitCall, SplitFlag},
};
use serde_json::{Value, json};

use crate::{
    args::{Global, Sizes},
    partitions::without_partitions,
    render::{
        json,
        page::{Page, heading},
        style::{BOLD, GREEN, YELLOW},
    },
};

pub fn run(global: &Global, sizes: &Sizes) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    let asked = sizes.requests(device.properties().multiprocessor_count);
    let (texts, requests): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    if let Some(reason) = device.missing_features() {
        anyhow::bail!(
            "{} cannot be partitioned: {reason}. {}",
            device.name(),
            without_partitions(&device)
        );
    }
    let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(&device)?;
    let plan = manager.plan(&requests)?;
    if global.json {
        let command = format!("cuda-green plan{} --json", sizes.text());
        json::print(&json::report(
            &device,
            &command,
            "plan",
            found(&texts, &plan),
        ))?;
    } else {
        let mut page = page(&device, &texts, &plan);
        let sm_counts = plan.partitions.iter().map(|one| one.sm_count);
        if let Some(note) = sizes.unequal(&device, &sm_counts.collect::<Vec<_>>()) {
            page.hanging("", "", note);
        }
        page.print()?;
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

/// Returns the driver call in words.
fn call(call: &SplitCall) -> String {
    match call {
        SplitCall::Structured(groups) => {
            format!(
                "cuDevSmResourceSplit into {}",
                counted(groups.len(), "group")
            )
        }
        SplitCall::ByCount {
            groups,
            sm_count,
            flag,
        } => {
            let flag = match flag {
                SplitFlag::IgnoreCoscheduling => ", co-scheduling ignored",
                _ => "",
            };
            let groups = counted(*groups as usize, "group");
            format!("cuDevSmResourceSplitByCount into {groups} of {sm_count} SMs{flag}")
        }
        other => format!("{other:?}"),
    }
}

/// Returns a count with its noun: `1 group`, `2 groups`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn page(device: &CudaDevice, texts: &[String], plan: &Plan) -> Page {
    let mut page = Page::new();
    page.line(heading(device));
    page.gap();
    describe(&mut page, texts, plan);
    page
}

fn describe(page: &mut Page, texts: &[String], plan: &Plan) {
    let lengths = texts.iter().map(String::len);
    let asked = lengths.max().unwrap_or_default().max(12);
    page.line(format!(
        "{BOLD}{:<asked$} {:>5} {:>8}{BOLD:#}",
        "asked", "SMs", "cluster"
    ));
    for (text, partition) in texts.iter().zip(&plan.partitions) {
        page.line(format!(
            "{text:<asked$} {:>5} {:>8}",
            partition.sm_count, partition.max_cluster
        ));
    }
    page.gap();
    page.hanging("by ", "  ", format!("{}:", plan.strategy));
    page.hanging("  ", "    ", call(&plan.call));
    if !plan.nested.is_empty() {
        let sizes: Vec<String> = plan.nested.iter().map(u32::to_string).collect();
        let sizes = sizes.join(", ");
        page.hanging(
            "  ",
            "    ",
            format!("then, each from what the split before left: {sizes}"),
        );
    }
    for refused in &plan.refused {
        page.line(format!(
            "{YELLOW}refused by the driver because of the chip's topology: {refused}{YELLOW:#}"
        ));
    }
    let style = if plan.stranded == 0 { GREEN } else { YELLOW };
    page.line(format!(
        "{style}{} SMs left free, {} stranded{style:#}",
        plan.left_over, plan.stranded
    ));
    if let Some(reason) = &plan.stranded_reason {
        page.line(format!("stranded, because {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda_green::{Driver, planner::PartitionRequest};

    /// No profile strands an SM, because all have an even number, so this changes a plan by hand.
    #[test]
    fn what_is_stranded_is_told_with_the_reason() {
        let driver = Driver::open(&"sim:a100@12.4".parse().unwrap()).unwrap();
        let device = driver.device(0).unwrap();
        let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(&device).unwrap();
        let requests = [20, 60].map(PartitionRequest::at_least);
        let mut plan = manager.plan(&requests).unwrap();
        plan.left_over = 0;
        plan.stranded = 1;
        plan.stranded_reason = Some("the device has 41 SMs".to_owned());
        let mut page = Page::of_width(80);
        describe(&mut page, &["20".to_owned(), "60".to_owned()], &plan);
        assert_eq!(
            anstream::adapter::strip_str(page.text()).to_string(),
            "asked          SMs  cluster\n\
             20              20        1\n\
             60              60        1\n\
             \n\
             by splits within what a split left, through scaffold contexts:\n  \
             cuDevSmResourceSplitByCount into 1 group of 60 SMs\n  \
             then, each from what the split before left: 20\n\
             0 SMs left free, 1 stranded\n\
             stranded, because the device has 41 SMs\n"
        );
    }
}

//! `cuda-green partitions set`: other shares of a plan, while its processes work.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use cuda_green::{PlanChange, SharedDevice, planner::SmRequest};
use serde_json::json;

use super::{only, plans, unassigned};
use crate::{
    args::{Global, NewShare},
    render::{
        json,
        page::{Page, printable_line},
    },
};

pub fn run(
    global: &Global,
    uuid: Option<&str>,
    shares: &[NewShare],
    wait: Duration,
) -> anyhow::Result<ExitCode> {
    let first = shares.first().context("no share was given")?;
    let plan = only(plans(uuid)?, &first.name)?;
    let shares = shares.iter();
    let shares: Vec<(&str, SmRequest)> = shares
        .map(|share| (share.name.as_str(), share.sms))
        .collect();
    let change = plan.set_shares(&shares, wait)?;
    if global.json {
        print_json(&plan, &change)?;
    } else {
        page(&plan, &change).print()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn page(plan: &SharedDevice, change: &PlanChange) -> Page {
    let mut page = Page::new();
    page.line(format!(
        "{}: plan {}, after {:.1} ms",
        plan.uuid,
        change.generation,
        change.took.as_secs_f64() * 1e3
    ));
    for one in &change.names {
        let name = printable_line(&one.name);
        let before = match one.sms_before {
            before if before == one.sms_after => "as before".to_owned(),
            before => format!("before {before}"),
        };
        let behind = match change.behind.contains(&one.name) {
            true => "; its process has not answered yet",
            false => "",
        };
        let said = format!("{name}: {} SMs, {before}{behind}", one.sms_after);
        page.hanging("  ", "    ", said);
    }
    unassigned(&mut page, change.unassigned_sms);
    page
}

fn print_json(plan: &SharedDevice, change: &PlanChange) -> anyhow::Result<()> {
    let names = change.names.iter().map(|one| {
        json!({
            "name": one.name,
            "sms_before": one.sms_before,
            "sms_after": one.sms_after,
            "taken": !change.behind.contains(&one.name),
        })
    });
    json::print(&json!({
        "command": "cuda-green partitions set --json",
        "change": {
            "uuid": plan.uuid.to_string(),
            "generation": change.generation,
            "took_ms": change.took.as_secs_f64() * 1e3,
            "partitions": names.collect::<Vec<_>>(),
            "unassigned_sms": change.unassigned_sms,
        },
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

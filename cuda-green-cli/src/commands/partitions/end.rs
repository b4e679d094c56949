//! `cuda-green partitions end`: the end of a name's holder, which leaves its neighbours under MPS unharmed.

use std::{process::ExitCode, time::Duration};

use cuda_green::{EndStep, NameHolder, SharedDevice};
use serde_json::{Value, json};

use super::{only, plans};
use crate::{
    args::Global,
    render::{
        json,
        page::{Page, printable_line},
    },
};

pub fn run(
    global: &Global,
    uuid: Option<&str>,
    name: &str,
    wait: Duration,
) -> anyhow::Result<ExitCode> {
    let plan = only(plans(uuid)?, name)?;
    let ended = plan.end_holder(name, wait)?;
    // The plan of that folder, whatever the environment names by now.
    let now = SharedDevice::list(Some(&plan.status.folder))?;
    let now = now.into_iter().find(|one| one.uuid == plan.uuid);
    let names = now.map(|now| now.status.names).unwrap_or_default();
    let left = names
        .into_iter()
        .filter(|one| ended.names.contains(&one.name));
    let left: Vec<(String, NameHolder)> = left.map(|one| (one.name, one.holder)).collect();
    if global.json {
        json::print(&json!({
            "command": "cuda-green partitions end --json",
            "ended": {
                "uuid": plan.uuid.to_string(),
                "pid": ended.pid,
                "names": ended.names,
                "steps": ended.steps.iter().map(step).collect::<Vec<_>>(),
                "free": left.iter().all(|(_, holder)| *holder == NameHolder::Free),
            },
            "version": env!("CARGO_PKG_VERSION"),
        }))?;
    } else {
        let mut page = Page::new();
        page.line(format!("process {}:", ended.pid));
        for step in &ended.steps {
            page.hanging("  ", "    ", step);
        }
        for (name, holder) in &left {
            let name = printable_line(name);
            page.hanging(
                "",
                "  ",
                format!("{name} is {}", printable_line(&holder.to_string())),
            );
        }
        page.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn step(step: &EndStep) -> Value {
    let (what, after) = match step {
        EndStep::ClientTerminated { server } => {
            return json!({ "step": "terminate_client", "server": server });
        }
        EndStep::Unlisted { after } => ("unlisted", Some(after)),
        EndStep::StillListed => ("still_listed", None),
        EndStep::Asked => ("sigterm", None),
        EndStep::Stopped => ("sigstop", None),
        EndStep::Killed => ("sigkill", None),
        EndStep::Ended { after } => ("ended", Some(after)),
        _ => ("other", None),
    };
    json!({ "step": what, "after_ms": after.map(|after| after.as_secs_f64() * 1e3) })
}

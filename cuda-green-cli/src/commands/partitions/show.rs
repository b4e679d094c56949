//! `cuda-green partitions show`: each plan, the holders of its names, and the MPS servers behind it.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use cuda_green::{NameHolder, PlanMps, Separation, SharedDevice, SharedName};
use serde_json::{Value, json};

use super::{NO_PLAN, plans, unassigned};
use crate::{
    args::Global,
    render::{
        json,
        page::{Page, printable_line},
        style::{BOLD, GREEN, RED, YELLOW},
    },
};

pub fn run(global: &Global, uuid: Option<&str>) -> anyhow::Result<ExitCode> {
    let plans = plans(uuid)?;
    if global.json {
        let devices: Vec<Value> = plans.iter().map(found).collect();
        json::print(&json!({
            "command": "cuda-green partitions --json",
            "plans": devices,
            "version": env!("CARGO_PKG_VERSION"),
        }))?;
    } else {
        page(&plans, now()).print()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn found(plan: &SharedDevice) -> Value {
    let status = &plan.status;
    let mps = match &plan.mps {
        PlanMps::None => json!(null),
        PlanMps::Servers { pipes, pids } => json!({ "pipes": pipes, "servers": pids }),
        PlanMps::Unknown { reason } => json!({ "unknown": reason }),
        _ => json!({}),
    };
    json!({
        "uuid": plan.uuid.to_string(),
        "sm_count": plan.sm_count,
        "cuda_version": plan.driver.to_string(),
        "folder": status.folder,
        "generation": status.generation,
        "announced": status.announced,
        "mps": mps,
        "separation": match &status.separation {
            Separation::Apart => json!({ "result": "apart" }),
            Separation::Failed { reason } => json!({ "result": "failed", "reason": reason }),
            Separation::NotTested { reason } => json!({ "result": "not tested", "reason": reason }),
            other => json!({ "result": other.to_string() }),
        },
        "partitions": status.names.iter().map(name).collect::<Vec<_>>(),
        "unassigned_sms": status.unassigned_sms,
    })
}

fn name(name: &SharedName) -> Value {
    let (state, pid, program, since, reason) = match &name.holder {
        NameHolder::Free => ("free", None, None, None, None),
        NameHolder::Process {
            pid,
            program,
            since,
        } => ("held", *pid, program.as_ref(), *since, None),
        NameHolder::Dirty { pid, reason } => ("dirty", *pid, None, None, Some(reason)),
        _ => ("held", None, None, None, None),
    };
    json!({
        "name": name.name,
        "share": name.share.to_string(),
        "sm_count": name.sm_count,
        "announced_sm_count": name.announced_sms,
        "state": state,
        "pid": pid,
        "program": program,
        "since": since,
        "reason": reason,
    })
}

fn page(plans: &[SharedDevice], now: u64) -> Page {
    let mut page = Page::new();
    if plans.is_empty() {
        let (first, rest) = NO_PLAN.split_at(1);
        page.line(format!("{}{rest}.", first.to_uppercase()));
    }
    for (index, plan) in plans.iter().enumerate() {
        if index > 0 {
            page.gap();
        }
        describe(&mut page, plan, now);
    }
    page
}

fn describe(page: &mut Page, plan: &SharedDevice, now: u64) {
    let status = &plan.status;
    page.line(format!(
        "{BOLD}{}{BOLD:#}: {} SMs, CUDA {}, plan {}",
        plan.uuid, plan.sm_count, plan.driver, status.generation
    ));
    if let Some(announced) = status.announced {
        let said = "is announced, and waits for processes to leave SMs";
        page.hanging(
            "  ",
            "    ",
            format!("{YELLOW}plan {announced} {said}{YELLOW:#}"),
        );
    }
    let folder = printable_line(&status.folder.display().to_string());
    page.hanging("  ", "    ", format!("in {folder}"));
    match &plan.mps {
        PlanMps::Servers { pipes, pids } => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            let servers = match pids.as_slice() {
                [] => "no MPS server runs".to_owned(),
                pids => format!("MPS server {}", pids.join(", ")),
            };
            let pipes = printable_line(&pipes.display().to_string());
            page.hanging("  ", "    ", format!("{servers}, pipes in {pipes}"));
            let style = match status.separation {
                Separation::Apart => GREEN,
                Separation::Failed { .. } => RED,
                _ => YELLOW,
            };
            let separation = printable_line(&status.separation.to_string());
            page.hanging("  ", "    ", format!("{style}{separation}{style:#}"));
        }
        PlanMps::Unknown { reason } => {
            let reason = printable_line(reason);
            page.hanging("  ", "    ", format!("{YELLOW}MPS: {reason}{YELLOW:#}"));
        }
        _ => page.hanging(
            "  ",
            "    ",
            format!(
                "{YELLOW}without MPS: processes take turns, and nothing is kept apart{YELLOW:#}"
            ),
        ),
    }
    page.gap();
    let names: Vec<String> = status
        .names
        .iter()
        .map(|one| printable_line(&one.name))
        .collect();
    let shares: Vec<String> = status
        .names
        .iter()
        .map(|one| one.share.to_string())
        .collect();
    let width = longest(&names, "partition");
    let share_width = longest(&shares, "share");
    page.line(format!(
        "{BOLD}{:<width$} {:>share_width$} {:>5}  state{BOLD:#}",
        "partition", "share", "SMs"
    ));
    for ((one, name), share) in status.names.iter().zip(names).zip(shares) {
        let label = format!("{name:<width$} {share:>share_width$} {:>5}  ", one.sm_count);
        let indent = " ".repeat(width + share_width + 9);
        let then = one.announced_sms.filter(|sms| *sms != one.sm_count);
        let then = then.map_or(String::new(), |sms| {
            format!("{YELLOW}{sms} SMs announced{YELLOW:#}; ")
        });
        page.hanging(&label, &indent, then + &state(&one.holder, now));
    }
    unassigned(page, status.unassigned_sms);
}

/// Returns the width of a column.
fn longest(texts: &[String], title: &str) -> usize {
    let lengths = texts.iter().map(|text| text.chars().count());
    lengths.max().unwrap_or_default().max(title.len())
}

/// Returns the state of a name in words.
fn state(holder: &NameHolder, now: u64) -> String {
    match holder {
        NameHolder::Free => format!("{GREEN}free{GREEN:#}"),
        NameHolder::Process {
            pid: Some(pid),
            program,
            since,
        } => {
            let program = program.as_deref().map(printable_line);
            let program = program.map_or(String::new(), |program| format!(" ({program})"));
            let since = since.map_or(String::new(), |since| {
                format!(", for {}", span(now.saturating_sub(since)))
            });
            format!("held by {pid}{program}{since}")
        }
        NameHolder::Dirty { pid, reason } => {
            let pid = pid.map_or(String::new(), |pid| format!(", of {pid}"));
            format!("{RED}dirty{RED:#}{pid}: {}", printable_line(reason))
        }
        _ => "held".to_owned(),
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.as_ref().map_or(0, Duration::as_secs)
}

/// Returns a time in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if minutes == 0 {
        format!("{seconds} s")
    } else if hours == 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else if days == 0 {
        format!("{hours} h {} min", minutes % 60)
    } else {
        format!("{days} d {} h", hours % 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_state_is_told_with_whose_it_is() {
        let held = |pid, program: Option<&str>| NameHolder::Process {
            pid,
            program: program.map(str::to_owned),
            since: Some(100),
        };
        let said = |holder| anstream::adapter::strip_str(&state(&holder, 165)).to_string();
        assert_eq!(
            said(held(Some(7), Some("a\nb"))),
            "held by 7 (a\\nb), for 1 min 5 s"
        );
        assert_eq!(said(held(Some(7), None)), "held by 7, for 1 min 5 s");
        assert_eq!(said(held(None, None)), "held");
        assert_eq!(said(NameHolder::Free), "free");
        let dirty = NameHolder::Dirty {
            pid: Some(9),
            reason: "wait".to_owned(),
        };
        assert_eq!(said(dirty), "dirty, of 9: wait");
    }
}

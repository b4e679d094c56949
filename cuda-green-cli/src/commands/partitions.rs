//! `cuda-green partitions`: the plans of devices among processes.

mod end;
mod set;
mod show;

use std::process::ExitCode;

use anyhow::Context;
use cuda_green::SharedDevice;

use crate::args::{Global, Partitions, PlanAction};

pub fn run(global: &Global, partitions: &Partitions) -> anyhow::Result<ExitCode> {
    let uuid = partitions.uuid.as_deref();
    match &partitions.what {
        None | Some(PlanAction::Show) => show::run(global, uuid),
        Some(PlanAction::Set { shares, wait }) => set::run(global, uuid, shares, *wait),
        Some(PlanAction::End { name, wait }) => end::run(global, uuid, name, *wait),
    }
}

/// Returns the plans in force, or that of the device whose UUID begins so.
fn plans(uuid: Option<&str>) -> anyhow::Result<Vec<SharedDevice>> {
    let mut plans = SharedDevice::list(None)?;
    let Some(uuid) = uuid else {
        return Ok(plans);
    };
    let all = known(&plans);
    plans.retain(|plan| plan.uuid.starts_with(uuid));
    match plans.len() {
        0 => anyhow::bail!("no plan is in force for a device {uuid:?}; there are plans for {all}"),
        1 => Ok(plans),
        _ => anyhow::bail!("{uuid:?} is the beginning of several: {}", known(&plans)),
    }
}

/// Returns the only plan with a partition of this name.
fn only(mut plans: Vec<SharedDevice>, name: &str) -> anyhow::Result<SharedDevice> {
    if plans.len() <= 1 {
        return plans.pop().context("no plan is in force");
    }
    let all = known(&plans);
    plans.retain(|plan| plan.status.names.iter().any(|one| one.name == name));
    match plans.len() {
        0 => anyhow::bail!("no plan has a partition {name:?}; there are plans for {all}"),
        1 => plans.pop().context("no plan is in force"),
        _ => anyhow::bail!(
            "several devices have a partition {name:?}; choose one by --uuid: {}",
            known(&plans)
        ),
    }
}

/// Names the devices of some plans.
fn known(plans: &[SharedDevice]) -> String {
    let names: Vec<String> = plans.iter().map(|plan| plan.uuid.to_string()).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

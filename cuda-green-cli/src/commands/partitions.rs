//! `cuda-green partitions`: the plans of devices among processes.

mod end;
mod set;
mod show;

use std::process::ExitCode;

use anyhow::Context;
use cuda_green::{NameHolder, SharedDevice};

use crate::{
    args::{Global, Partitions, PlanAction},
    render::{page::Page, style::YELLOW},
};

pub fn run(global: &Global, partitions: &Partitions) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !global.names_a_device(),
        "the plans are found in their folder, without a driver: choose one by --uuid, not by --driver or --device"
    );
    let uuid = partitions.uuid.as_deref();
    match &partitions.what {
        None | Some(PlanAction::Show) => show::run(global, uuid),
        Some(PlanAction::Set { shares, wait }) => set::run(global, uuid, shares, *wait),
        Some(PlanAction::End { name, wait }) => end::run(global, uuid, name, *wait),
    }
}

/// Returns the plans in force, or those of the device whose UUID begins so.
fn plans(uuid: Option<&str>) -> anyhow::Result<Vec<SharedDevice>> {
    let mut plans = SharedDevice::list(None)?;
    let Some(uuid) = uuid else {
        return Ok(plans);
    };
    let all = known(&plans);
    plans.retain(|plan| plan.uuid.starts_with(uuid));
    let Some(first) = plans.first() else {
        anyhow::bail!("no plan is in force for a device {uuid:?}; there are plans for {all}");
    };
    anyhow::ensure!(
        plans.iter().all(|plan| plan.uuid == first.uuid),
        "{uuid:?} is the beginning of several: {}",
        known(&plans)
    );
    Ok(plans)
}

/// Returns the only plan with a partition of this name. Of one device there can be two plans: under MPS, and without it.
/// Then it is the one that processes hold.
fn only(mut plans: Vec<SharedDevice>, name: &str) -> anyhow::Result<SharedDevice> {
    if plans.len() <= 1 {
        return plans.pop().context(NO_PLAN);
    }
    let all = known(&plans);
    plans.retain(|plan| plan.status.names.iter().any(|one| one.name == name));
    let Some(first) = plans.first().map(|plan| plan.uuid) else {
        anyhow::bail!("no plan has a partition {name:?}; there are plans for {all}");
    };
    anyhow::ensure!(
        plans.iter().all(|plan| plan.uuid == first),
        "several devices have a partition {name:?}; choose one by --uuid: {}",
        known(&plans)
    );
    let is_held = |plan: &SharedDevice| {
        let mut names = plan.status.names.iter();
        names.any(|one| one.holder != NameHolder::Free)
    };
    if plans.len() > 1 && plans.iter().filter(|plan| is_held(plan)).count() == 1 {
        plans.retain(is_held);
    }
    if plans.len() > 1 {
        let folders = plans.iter().map(|plan| plan.status.folder.display());
        let folders: Vec<String> = folders.map(|folder| folder.to_string()).collect();
        anyhow::bail!(
            "there are plans for {first} in several folders; name one by CUDA_GREEN_SHARED_DIR: {}",
            folders.join(", ")
        );
    }
    plans.pop().context(NO_PLAN)
}

/// What to say where there is no plan.
const NO_PLAN: &str = "no plan is in force: no process has joined one (`SmPartitionManager::join`) in the folder that \
                       CUDA_GREEN_SHARED_DIR names, or where it is without that";

/// Tells of SMs that no partition has.
fn unassigned(page: &mut Page, sms: u32) {
    if sms > 0 {
        page.line(format!(
            "{YELLOW}{sms} SMs are in no partition; one with `rest` would have them{YELLOW:#}"
        ));
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

//! `cuda-green partitions`: the plans of devices among processes.

mod show;

use std::process::ExitCode;

use cuda_green::SharedDevice;

use crate::args::{Global, Partitions, PlanAction};

pub fn run(global: &Global, partitions: &Partitions) -> anyhow::Result<ExitCode> {
    let uuid = partitions.uuid.as_deref();
    match &partitions.what {
        None | Some(PlanAction::Show) => show::run(global, uuid),
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

/// Names the devices of some plans.
fn known(plans: &[SharedDevice]) -> String {
    let names: Vec<String> = plans.iter().map(|plan| plan.uuid.to_string()).collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

//! `cuda-green info`: the driver and its devices, and what they can and cannot do.

mod features;

use std::{env, process::ExitCode};

use cuda_green::{
    CudaDevice, CudaVersion, DeviceUuid, GranularitySource, MpsDaemon, MpsStatus,
    sys::{Absence, EntryPoint},
};
use serde_json::{Value, json};

use crate::{
    args::Global,
    partitions::without_partitions,
    render::{
        json,
        page::{Page, heading, printable_line},
        style::{BOLD, GREEN, YELLOW},
    },
    situation::loaded_library,
};

pub fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    if global.json {
        json::print(&json::report(
            &device,
            "cuda-green info --json",
            "info",
            found(&device)?,
        ))?;
    } else {
        page(&device)?.print()?;
    }
    Ok(if device.supports_required_features() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn found(device: &CudaDevice) -> anyhow::Result<Value> {
    let granularity = device.capabilities().granularity;
    Ok(json!({
        "partitions": device.supports_required_features(),
        "reason": device.missing_features(),
        "devices": devices(device)?,
        "library": loaded_library(device.driver().source()),
        "hidden_entry_points": hidden(device),
        "total_memory_bytes": device.total_memory(),
        "free_memory_bytes": device.free_memory()?,
        "min_partition_sms": smallest(device),
        "coscheduled_sms": granularity.coscheduled,
        "granularity_from_driver": device.capabilities().granularity_source == GranularitySource::Driver,
        "mps": mps(&device.mps_status()?),
        "features": features::json(device),
    }))
}

/// Lists all devices of the driver, in its order.
fn devices(device: &CudaDevice) -> anyhow::Result<Vec<Value>> {
    let driver = device.driver();
    (0..driver.device_count()?)
        .map(|ordinal| {
            let device = driver.device(ordinal)?;
            let (major, minor) = device.properties().compute_capability;
            Ok(json!({
                "ordinal": ordinal,
                "name": device.name(),
                "uuid": DeviceUuid(device.uuid()?).to_string(),
                "sm_count": device.properties().multiprocessor_count,
                "compute_capability": format!("{major}.{minor}"),
                "total_memory_bytes": device.total_memory(),
                "partitions": device.supports_required_features(),
            }))
        })
        .collect()
}

fn mps(mps: &MpsStatus) -> Value {
    let daemon = match &mps.daemon {
        MpsDaemon::None => Value::Null,
        MpsDaemon::Running { pid, user } => json!({ "pid": pid, "user": user }),
        other => json!({ "error": other.to_string() }),
    };
    json!({
        "in_use": mps.in_use,
        "pipes": mps.pipes,
        "daemon": daemon,
        "servers": mps.servers,
        "version": mps.version,
        "multi_user": mps.multi_user,
        "thread_percentage": mps.thread_percentage,
        "static_partition": mps.static_partition,
        "client_priority": mps.client_priority,
        "sm_count": mps.sm_count,
        "refuses_splits": mps.refuses_splits,
        "compute_mode": mps.compute_mode.map(|mode| mode.to_string()),
        "mig": mps.is_mig,
    })
}

/// Tells of MPS, if there is anything to tell.
fn tell_mps(page: &mut Page, mps: &MpsStatus) {
    if !mps.in_use && mps.daemon == MpsDaemon::None {
        return;
    }
    let used = if mps.in_use { "in use" } else { "not in use" };
    let version = mps.version.as_deref().unwrap_or("unknown");
    let mut parts = vec![
        format!("{}, release {version}", mps.daemon),
        format!("pipes in {}", mps.pipes.display()),
    ];
    if !mps.servers.is_empty() {
        let servers: Vec<String> = mps.servers.iter().map(u32::to_string).collect();
        parts.push(format!("server {}", servers.join(", ")));
    }
    if mps.multi_user == Some(true) {
        parts.push("one server for all users".to_owned());
    }
    for (name, value) in [
        ("thread percentage", &mps.thread_percentage),
        ("static partition", &mps.static_partition),
        ("client priority", &mps.client_priority),
    ] {
        parts.extend(value.as_ref().map(|value| format!("{name} {value}")));
    }
    page.hanging(
        "MPS: ",
        "  ",
        printable_line(&format!("{used}; {}", parts.join("; "))),
    );
    if let Some(reason) = &mps.refuses_splits {
        page.hanging(
            "  ",
            "  ",
            format!("{YELLOW}{}{YELLOW:#}", printable_line(reason)),
        );
    }
}

fn page(device: &CudaDevice) -> anyhow::Result<Page> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1u32 << 30);
    let granularity = device.capabilities().granularity;
    let mut page = Page::new();
    page.line(heading(device));
    if let Some(path) = loaded_library(device.driver().source()) {
        let path = printable_line(&path.display().to_string());
        page.hanging("library: ", "  ", path);
    }
    let count = device.driver().device_count()?;
    let all = if count > 1 { " (--json lists all)" } else { "" };
    page.line(format!(
        "device {} of {count}{all}; {:.1} of {:.1} GiB free",
        device.ordinal(),
        gib(device.free_memory()?),
        gib(device.total_memory())
    ));
    page.line(DeviceUuid(device.uuid()?).to_string());
    if let Ok(visible) = env::var("CUDA_VISIBLE_DEVICES")
        && device.driver().simulator().is_none()
    {
        page.line(format!(
            "CUDA_VISIBLE_DEVICES={} chooses and orders the devices",
            printable_line(&visible)
        ));
    }
    let source = match device.capabilities().granularity_source {
        GranularitySource::Driver => "reported by the driver",
        GranularitySource::ComputeCapability => "from NVIDIA's guide",
    };
    page.line(format!(
        "partitions: at least {} SMs, {} co-scheduled ({source})",
        smallest(device),
        granularity.coscheduled
    ));
    tell_mps(&mut page, &device.mps_status()?);
    features::print(device, &mut page);
    page.gap();
    let hides = hides(device);
    if let Some(hides) = &hides {
        page.line(format!("{YELLOW}{hides}{YELLOW:#}"));
    }
    match device.missing_features() {
        None if hides.is_some() => {}
        None => page.line(format!(
            "{GREEN}{BOLD}This GPU can be partitioned.{BOLD:#}{GREEN:#}"
        )),
        Some(reason) => {
            page.line(format!(
                "{YELLOW}This GPU cannot be partitioned: {reason}.{YELLOW:#}"
            ));
            page.line(without_partitions(device));
        }
    }
    Ok(page)
}

/// Names the functions that the driver's version has but the loaded library does not export.
fn hidden(device: &CudaDevice) -> Vec<&'static str> {
    let driver = device.driver();
    lacking(driver.api().entry_points(), driver.version())
}

fn lacking<'a>(
    entry_points: impl Iterator<Item = (&'a EntryPoint, Option<Absence>)>,
    version: CudaVersion,
) -> Vec<&'static str> {
    let lacking =
        entry_points.filter(|(entry, absence)| absence.is_some() && entry.since <= version);
    lacking.map(|(entry, _)| entry.name()).collect()
}

/// Returns a warning if something stands in front of the driver.
fn hides(device: &CudaDevice) -> Option<String> {
    let names = hidden(device);
    if names.is_empty() {
        return None;
    }
    let driver = device.driver();
    let library = driver
        .api()
        .library()
        .map(|path| path.display().to_string());
    Some(format!(
        "{} is incomplete or stands in front of the driver: of CUDA {} it hides {}. Calls that need these fail.",
        printable_line(&library.unwrap_or_else(|| driver.source().to_owned())),
        driver.version(),
        names.join(", ")
    ))
}

/// Returns the SMs of the smallest partition; the structured split makes any even number.
fn smallest(device: &CudaDevice) -> u32 {
    let capabilities = device.capabilities();
    let least = if capabilities.structured_split {
        2
    } else {
        u32::MAX
    };
    capabilities.granularity.min.min(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda_green::sys::ENTRY_POINTS;

    #[test]
    fn only_what_the_version_has_is_hidden() {
        let all = || ENTRY_POINTS.iter();
        let version = CudaVersion::new(12, 4);
        assert_eq!(lacking(all().map(|entry| (entry, None)), version), [""; 0]);
        let newer = all().map(|entry| {
            let is_newer = entry.since > version;
            (entry, is_newer.then_some(Absence::NotFound))
        });
        assert_eq!(lacking(newer, version), [""; 0]);
        let one = all().map(|entry| {
            let is_one = entry.name() == "cuGreenCtxCreate";
            (entry, is_one.then_some(Absence::OlderAbi))
        });
        assert_eq!(lacking(one, version), ["cuGreenCtxCreate"]);
    }
}

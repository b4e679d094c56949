//! `cuda-green info`: what there is, and what it can and cannot do.

use std::process::ExitCode;

use cuda_green::{CudaDevice, GranularitySource};
use serde_json::{Value, json};

use crate::{
    args::Global,
    report::{self, BOLD, GREEN, YELLOW},
};

pub fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let device = global.device()?;
    if global.json {
        report::print(&report::json(
            &device,
            "cuda-green info --json",
            "info",
            found(&device)?,
        ))?;
    } else {
        print(&device)?;
    }
    Ok(if device.supports_required_features() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn found(device: &CudaDevice) -> anyhow::Result<Value> {
    let granularity = device.capabilities().granularity;
    let features: serde_json::Map<String, Value> = device
        .capabilities()
        .features()
        .into_iter()
        .map(|feature| {
            let found = json!({ "there": feature.there, "since": feature.since.to_string() });
            (feature.name.to_owned(), found)
        })
        .collect();
    Ok(json!({
        "partitions": device.supports_required_features(),
        "reason": device.missing_features(),
        "devices": device.driver().device_count()?,
        "library": library(),
        "total_memory_bytes": device.total_memory(),
        "free_memory_bytes": device.free_memory()?,
        "min_partition_sms": granularity.min,
        "coscheduled_sms": granularity.multiple,
        "granularity_from_driver": granularity.source == GranularitySource::Driver,
        "features": features,
    }))
}

fn print(device: &CudaDevice) -> anyhow::Result<()> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1u32 << 30);
    let capabilities = device.capabilities();
    let granularity = capabilities.granularity;
    anstream::println!("{}", report::heading(device));
    if let Some(path) = library() {
        anstream::println!("library: {path}");
    }
    anstream::println!(
        "device {} of {}; {:.1} of {:.1} GiB free",
        device.ordinal(),
        device.driver().device_count()?,
        gib(device.free_memory()?),
        gib(device.total_memory())
    );
    let source = match granularity.source {
        GranularitySource::Driver => "as the driver says",
        GranularitySource::ComputeCapability => "as NVIDIA's guide says; the driver does not",
    };
    anstream::println!(
        "partitions: at least {} SMs, {} co-scheduled ({source})\n",
        granularity.min,
        granularity.multiple
    );
    for feature in capabilities.features() {
        let (style, sign) = if feature.there {
            (GREEN, "yes")
        } else {
            (YELLOW, "no ")
        };
        let since = if feature.there {
            String::new()
        } else {
            format!(" (CUDA {})", feature.since)
        };
        anstream::println!("  {style}{sign}{style:#}  {}{since}", feature.what);
    }
    match device.missing_features() {
        None => anstream::println!("\n{GREEN}{BOLD}This GPU can be partitioned.{BOLD:#}{GREEN:#}"),
        Some(reason) => anstream::println!(
            "\n{YELLOW}This GPU cannot be partitioned: {reason}.{YELLOW:#}\nPrograms work in single-context mode, where nothing is isolated."
        ),
    }
    Ok(())
}

/// The file that the driver was loaded from, where the system tells what this process has mapped.
fn library() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.split_once('/'))
        .map(|(_, path)| format!("/{path}"))
        .find(|path| {
            path.rsplit('/')
                .next()
                .is_some_and(|name| name.starts_with("libcuda."))
        })
}

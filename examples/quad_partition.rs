//! Splits a GPU into four partitions, runs a kernel in each, and shows which SMs it ran on.
//!
//! `cargo run --release --example quad_partition -- [--driver DRIVER] [--json]`

use std::process::ExitCode;

use clap::Parser;
use cuda_green::{
    AllocationStatus, ContextId, DRIVER_VARIABLE, Driver, DriverSpec, Error, PartitionMode, Result,
    SmPartitionManager, sys,
};
use serde::Serialize;

/// Split a GPU into four partitions and show which SMs a kernel runs on in each.
#[derive(Parser)]
struct Args {
    /// `system`, `sim:<device>@<major>.<minor>`, or the path of a driver library
    ///
    /// Without it, CUDA_GREEN_DRIVER decides, and without that the system's driver, if it has a GPU
    #[arg(long)]
    driver: Option<DriverSpec>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    driver: DriverReport,
    device: DeviceReport,
    mode: &'static str,
    reason: Option<String>,
    contexts: Vec<ContextReport>,
    allocated_sms: u32,
    stranded_sms: u32,
    stranded_reason: Option<String>,
    disjoint: bool,
}

#[derive(Serialize)]
struct DriverReport {
    source: String,
    cuda_version: String,
    simulated: bool,
}

#[derive(Serialize)]
struct DeviceReport {
    name: String,
    sm_count: u32,
    compute_capability: String,
}

#[derive(Serialize)]
struct ContextReport {
    id: String,
    requested_sms: u32,
    sm_count: u32,
    coscheduled: u32,
    max_cluster: u32,
    priority: String,
    preemptible: bool,
    memory_limit_bytes: u64,
    sm_ids: Vec<u32>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match named(args.driver)
        .and_then(|spec| driver(spec.as_ref()))
        .and_then(|driver| report(&driver))
    {
        Ok(report) => {
            if args.json {
                match serde_json::to_string_pretty(&report) {
                    Ok(json) => println!("{json}"),
                    Err(error) => eprintln!("error: {error}"),
                }
            } else {
                print_table(&report);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The driver of the command line or of the environment, if one is named there.
fn named(argument: Option<DriverSpec>) -> Result<Option<DriverSpec>> {
    let in_environment = std::env::var_os(DRIVER_VARIABLE).is_some_and(|value| !value.is_empty());
    match argument {
        None if in_environment => Ok(Some(DriverSpec::from_env()?)),
        argument => Ok(argument),
    }
}

/// The driver that was named or, where none was and the system has no GPU, the simulated RTX 5090.
fn driver(named: Option<&DriverSpec>) -> Result<Driver> {
    const INSTEAD: &str = "sim:rtx5090@13.1";
    let spec = match named {
        Some(spec) => spec,
        None => &DriverSpec::System,
    };
    let opened = Driver::open(spec).and_then(|driver| driver.device_count().map(|_| driver));
    match opened {
        Err(error @ (Error::NoGpu { .. } | Error::Load(sys::Error::DriverNotFound { .. })))
            if named.is_none() =>
        {
            eprintln!("no GPU here, showing the simulated {INSTEAD} instead ({error})");
            Driver::open(&INSTEAD.parse()?)
        }
        opened => opened,
    }
}

fn report(driver: &Driver) -> Result<Report> {
    let device = driver.device(0)?;
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    let status: AllocationStatus = manager.allocation_status();
    let contexts = status
        .contexts
        .iter()
        .map(|context| {
            Ok(ContextReport {
                id: context.id.to_string(),
                requested_sms: context.requested_sms,
                sm_count: context.sm_count,
                coscheduled: context.coscheduled_sms,
                max_cluster: context.max_cluster_size,
                priority: format!("{:?}", context.priority),
                preemptible: context.preemptible,
                memory_limit_bytes: context.memory_limit_bytes,
                sm_ids: manager.get_context(context.id)?.observed_sm_ids()?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let disjoint = manager.verify()?.is_isolated();
    for id in ContextId::ALL {
        manager.destroy_context(id)?;
    }
    let (mode, reason) = match status.mode {
        PartitionMode::Partitioned => ("partitioned", None),
        PartitionMode::SingleContext { reason } => ("single_context", Some(reason)),
    };
    let properties = device.properties();
    let (major, minor) = properties.compute_capability;
    Ok(Report {
        driver: DriverReport {
            source: driver.source().to_owned(),
            cuda_version: driver.version().to_string(),
            simulated: driver.is_simulated(),
        },
        device: DeviceReport {
            name: properties.name.clone(),
            sm_count: properties.multiprocessor_count,
            compute_capability: format!("{major}.{minor}"),
        },
        mode,
        reason,
        contexts,
        allocated_sms: status.allocated_sms,
        stranded_sms: status.stranded_sms,
        stranded_reason: status.stranded_reason,
        disjoint,
    })
}

fn print_table(report: &Report) {
    let simulated = if report.driver.simulated {
        " (SIMULATED: no GPU was used)"
    } else {
        ""
    };
    println!(
        "{}{simulated}: {} SMs, compute capability {}, CUDA {} from {}",
        report.device.name,
        report.device.sm_count,
        report.device.compute_capability,
        report.driver.cuda_version,
        report.driver.source,
    );
    if let Some(reason) = &report.reason {
        println!("single-context mode, nothing is isolated: {reason}");
    }
    println!();
    println!(
        "{:<10} {:>5} {:>4} {:>8}  {:<9} {:>7}  SM ids seen",
        "context", "asked", "got", "cluster", "priority", "memory"
    );
    for context in &report.contexts {
        println!(
            "{:<10} {:>5} {:>4} {:>8}  {:<9} {:>3} GiB  {}",
            context.id,
            context.requested_sms,
            context.sm_count,
            context.max_cluster,
            context.priority,
            context.memory_limit_bytes >> 30,
            ranges(&context.sm_ids),
        );
    }
    println!();
    println!(
        "{} SMs allocated, {} stranded",
        report.allocated_sms, report.stranded_sms
    );
    if let Some(reason) = &report.stranded_reason {
        println!("stranded: {reason}");
    }
    let answer = if report.disjoint {
        "disjoint"
    } else {
        "NOT disjoint"
    };
    println!("the partitions are {answer}{simulated}");
}

/// `0 1 2 5` as `0-2 5`.
fn ranges(ids: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &id in ids {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => runs.push((id, id)),
        }
    }
    let text = |&(first, last): &(u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(" ")
}

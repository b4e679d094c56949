//! The latency of a request while background work floods the GPU: alone, beside the flood in one context,
//! with stream priorities, in partitions, and with the flood left in the primary context.

use std::{fs, path::Path};

use anyhow::Context;

use cuda_green::{
    ContextId, ContextPriority, CudaDevice, GreenContext, GreenContextConfig, SmPartitionManager,
    Stream,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{
    load::{
        Flood, LONG_BLOCKS, Load, ONE_KERNEL, Request, SHORT_BLOCKS, SMALL_KERNELS, TINY_LAUNCHES,
    },
    samples::Samples,
};
use crate::{args::Global, plot, report};

/// Sizes of partitions, in SMs, in each of which a request alone is held against one beside a flood.
const SIZES: [u32; 4] = [8, 16, 32, 64];

pub fn run(global: &Global, quick: bool, svg: Option<&Path>) -> anyhow::Result<()> {
    let device = global.device()?;
    if !global.json {
        anstream::println!("{}", report::heading(&device));
    }
    let rows = measure(&device, quick)?;
    if let Some(path) = svg {
        write_picture(path, device.name(), device.driver().is_simulated(), &rows)?;
    }
    if global.json {
        let quick = if quick { " --quick" } else { "" };
        let command = format!("cuda-green bench isolation{quick} --json");
        let rows = rows.iter().map(Row::json).collect();
        return report::print(&report::json(&device, &command, "figures", rows));
    }
    print(&rows);
    if let Some(path) = svg {
        anstream::println!("\nwrote {}", path.display());
    }
    Ok(())
}

/// Draws what was measured before.
pub fn redraw(from: &Path, svg: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(from).with_context(|| from.display().to_string())?;
    let report: Value = serde_json::from_str(&text).with_context(|| from.display().to_string())?;
    let rows = report["figures"].as_array().map(Vec::as_slice);
    let rows: Option<Vec<Row>> = rows
        .unwrap_or_default()
        .iter()
        .map(Row::from_json)
        .collect();
    let rows = rows.filter(|rows| !rows.is_empty()).with_context(|| {
        format!(
            "{} has no figures of `bench isolation --json`",
            from.display()
        )
    })?;
    let device = report["device"].as_str().unwrap_or("unknown device");
    write_picture(svg, device, report["simulated"] == true, &rows)?;
    anstream::println!("wrote {}", svg.display());
    Ok(())
}

/// The latencies of one set-up.
struct Row {
    set_up: String,
    flood: Option<String>,
    /// SMs of the partition that the request is in; none where it is in the primary context.
    partition_sms: Option<u32>,
    samples: Samples,
}

impl Row {
    fn name(&self) -> String {
        let flood = self.flood.as_ref().map(|name| format!(", {name}"));
        format!("{}{}", self.set_up, flood.unwrap_or_default())
    }

    fn json(&self) -> Value {
        let mut row = self.samples.microseconds();
        row["set_up"] = self.set_up.as_str().into();
        row["flood"] = self.flood.as_deref().into();
        row["partition_sms"] = self.partition_sms.into();
        row
    }

    /// The same back from JSON, in the steps in which the distribution is kept there.
    fn from_json(row: &Value) -> Option<Self> {
        let percentiles = row["percentiles_by_half_us"].as_array()?;
        let percentiles: Option<Vec<f64>> = percentiles.iter().map(Value::as_f64).collect();
        Some(Self {
            set_up: row["set_up"].as_str()?.to_owned(),
            flood: row["flood"].as_str().map(str::to_owned),
            partition_sms: row["partition_sms"].as_u64().map(|sms| sms as u32),
            samples: Samples::of(percentiles?),
        })
    }
}

/// What is to be measured: a request in a stream, and a flood in another.
struct SetUp {
    name: String,
    request: (Request, Stream),
    flood: Option<(Flood, Stream)>,
}

fn measure(device: &CudaDevice, quick: bool) -> anyhow::Result<Vec<Row>> {
    let load = Load::new(device, quick)?;
    let total = device.properties().multiprocessor_count;
    let quarter = (total / 4 / 8 * 8).max(1);
    let mut rows = Vec::new();
    let progress = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:24} {pos}/{len} {wide_msg}",
    )?);
    // One manager at a time, since each splits the whole device.
    measure_all(&load, &comparison(device, quarter)?, &progress, &mut rows)?;
    for sms in SIZES.into_iter().filter(|sms| *sms < total) {
        measure_all(&load, &in_partition(device, sms)?, &progress, &mut rows)?;
    }
    measure_all(
        &load,
        &small_kernels(device, quarter)?,
        &progress,
        &mut rows,
    )?;
    progress.finish_and_clear();
    Ok(rows)
}

fn measure_all(
    load: &Load,
    set_ups: &[SetUp],
    progress: &ProgressBar,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    progress.inc_length(set_ups.len() as u64);
    for SetUp {
        name,
        request: (request, stream),
        flood,
    } in set_ups
    {
        let mut row = Row {
            set_up: name.clone(),
            flood: flood.as_ref().map(|(flood, _)| flood.name.to_owned()),
            partition_sms: stream
                .context()
                .is_partitioned()
                .then(|| stream.context().sm_count()),
            samples: Samples::of(Vec::new()),
        };
        progress.set_message(row.name());
        let flood = flood.as_ref().map(|(flood, stream)| (*flood, stream));
        row.samples = load.measure(*request, stream, flood)?;
        rows.push(row);
        progress.inc(1);
    }
    Ok(())
}

fn config(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        sm_count,
        ..GreenContextConfig::default()
    }
}

/// A partition of this size and one of all the other SMs.
fn two(device: &CudaDevice, sms: u32) -> anyhow::Result<(GreenContext, GreenContext)> {
    let manager = SmPartitionManager::on(device)?;
    let own = manager.create_context(ContextId::Embedding, config(sms))?;
    let left = manager.allocation_status().available_sms;
    let other = manager.create_context(ContextId::Dream, config(left))?;
    Ok((own, other))
}

/// One kernel beside both floods in every set-up that people use.
fn comparison(device: &CudaDevice, sms: u32) -> anyhow::Result<Vec<SetUp>> {
    let whole = GreenContext::primary(device, config(1))?;
    let (own, other) = two(device, sms)?;
    let plain = |context: &GreenContext| context.create_stream();
    let first =
        |context: &GreenContext| context.create_stream_with_priority(ContextPriority::Critical);
    let last = |context: &GreenContext| context.create_stream_with_priority(ContextPriority::Low);
    let set_up = |name: &str, stream, flood| SetUp {
        name: name.to_owned(),
        request: (ONE_KERNEL, stream),
        flood,
    };
    let mut set_ups = vec![
        set_up("alone, whole GPU", plain(&whole)?, None),
        set_up("alone, in a partition", plain(&own)?, None),
    ];
    for flood in [LONG_BLOCKS, SHORT_BLOCKS] {
        let beside = |name, request, stream| set_up(name, request, Some((flood, stream)));
        set_ups.extend([
            beside("two plain streams", plain(&whole)?, plain(&whole)?),
            beside(
                "high- and low-priority streams",
                first(&whole)?,
                last(&whole)?,
            ),
            beside("flood in another partition", plain(&own)?, plain(&other)?),
            beside(
                "partition, flood in the primary context",
                plain(&own)?,
                plain(&whole)?,
            ),
        ]);
    }
    Ok(set_ups)
}

/// One kernel in a partition of this size, alone and beside both floods on all other SMs.
fn in_partition(device: &CudaDevice, sms: u32) -> anyhow::Result<Vec<SetUp>> {
    let (own, other) = two(device, sms)?;
    let set_up = |flood| -> anyhow::Result<SetUp> {
        Ok(SetUp {
            name: format!("{} SMs", own.sm_count()),
            request: (ONE_KERNEL, own.create_stream()?),
            flood: match flood {
                Some(flood) => Some((flood, other.create_stream()?)),
                None => None,
            },
        })
    };
    [None, Some(LONG_BLOCKS), Some(SHORT_BLOCKS)]
        .into_iter()
        .map(set_up)
        .collect()
}

/// A row of small kernels in a partition, alone and beside tiny launches from another thread.
fn small_kernels(device: &CudaDevice, sms: u32) -> anyhow::Result<Vec<SetUp>> {
    let (own, other) = two(device, sms)?;
    let set_up = |flood: Option<Stream>| -> anyhow::Result<SetUp> {
        Ok(SetUp {
            name: "12 small kernels in a partition".to_owned(),
            request: (SMALL_KERNELS, own.create_stream()?),
            flood: flood.map(|stream| (TINY_LAUNCHES, stream)),
        })
    };
    Ok(vec![set_up(None)?, set_up(Some(other.create_stream()?))?])
}

fn print(rows: &[Row]) {
    anstream::println!(
        "\n{:<52} {:>8} {:>8} {:>8}",
        "latency in microseconds",
        "p50",
        "p99",
        "max"
    );
    for row in rows {
        let at = |share| row.samples.at(share);
        anstream::println!(
            "{:<52} {:>8.1} {:>8.1} {:>8.1}",
            row.name(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    anstream::println!(
        "\np99 beside a flood in another partition / p99 alone in the same partition"
    );
    for row in rows.iter().filter(|row| row.flood.is_some()) {
        let alone = rows
            .iter()
            .find(|other| other.flood.is_none() && other.set_up == row.set_up);
        if let Some(alone) = alone {
            let ratio = row.samples.at(0.99) / alone.samples.at(0.99);
            anstream::println!("{:<52} {ratio:>8.3}", row.name());
        }
    }
}

/// Draws the distributions beside the flood of long blocks, and that of the partition alone.
fn write_picture(path: &Path, device: &str, simulated: bool, rows: &[Row]) -> anyhow::Result<()> {
    let shown = |row: &&Row| {
        let compared = row.flood.as_deref() == Some(LONG_BLOCKS.name);
        row.set_up == "alone, in a partition" || compared && !row.set_up.ends_with(" SMs")
    };
    let curves = rows.iter().filter(shown).map(|row| plot::Curve {
        name: row.set_up.clone(),
        percentiles: row.samples.percentiles(),
    });
    let title = format!("Latency of one request while background work floods the GPU ({device})");
    let note = simulated.then_some("SIMULATED: these times mean nothing");
    let svg = plot::latencies(&title, note, &curves.collect::<Vec<_>>())?;
    fs::write(path, svg).with_context(|| path.display().to_string())
}

//! The latency of a request while background work floods the GPU: alone, beside the flood in one context,
//! with stream priorities, in partitions, and with the flood left in the primary context.

use cuda_green::{
    ContextId, ContextPolicy, ContextPriority, CudaDevice, GreenContext, SmPartitionManager, Stream,
};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::{
    contexts::{config, must_have_partitions},
    load::{
        Flood, LONG_BLOCKS, Load, ONE_KERNEL, Request, SHORT_BLOCKS, SMALL_KERNELS, TINY_LAUNCHES,
    },
    run::{Drawn, Figures, NO_RATIOS, Work},
    samples::Latencies,
};
use crate::render::{duration::duration, svg::Curve};

/// Sizes of partitions, in SMs, in each of which a request alone is compared with one beside a flood.
const SIZES: [u32; 4] = [8, 16, 32, 64];

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Isolation(Vec<Row>);

/// The latencies of one set-up.
#[derive(Serialize, Deserialize)]
struct Row {
    set_up: String,
    flood: Option<String>,
    /// SMs of the request's partition; none in the primary context.
    partition_sms: Option<u32>,
    #[serde(flatten)]
    latencies: Latencies,
    /// The p99 beside a flood in another partition, as a multiple of the p99 alone in the same partition. None on a
    /// simulated driver, whose times are the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_to_alone: Option<f64>,
}

impl Row {
    fn name(&self) -> String {
        name(&self.set_up, self.flood.as_deref())
    }
}

fn name(set_up: &str, flood: Option<&str>) -> String {
    let flood = flood.map(|name| format!(", {name}"));
    format!("{set_up}{}", flood.unwrap_or_default())
}

/// A request in a stream, and a flood in another.
struct SetUp {
    name: String,
    request: (Request, Stream),
    flood: Option<(Flood, Stream)>,
}

pub fn measure(work: &Work<'_>) -> anyhow::Result<Isolation> {
    let (device, progress) = (work.device, work.progress);
    must_have_partitions(device)?;
    let load = Load::new(device, work.quick)?;
    let total = device.properties().multiprocessor_count;
    let quarter = (total / 4 / 8 * 8).max(1);
    let mut rows = Vec::new();
    // One manager at a time, since each splits the whole device.
    measure_all(&load, &comparison(device, quarter)?, progress, &mut rows)?;
    for sms in SIZES.into_iter().filter(|sms| *sms < total) {
        measure_all(&load, &in_partition(device, sms)?, progress, &mut rows)?;
    }
    measure_all(&load, &small_kernels(device, quarter)?, progress, &mut rows)?;
    if !device.driver().is_simulated() {
        compare(&mut rows);
    }
    Ok(Isolation(rows))
}

/// Compares each row beside a flood with the row of the same set-up alone, if there is one.
fn compare(rows: &mut [Row]) {
    let alone = rows.iter().filter(|row| row.flood.is_none());
    let alone: Vec<_> = alone
        .map(|row| (row.set_up.clone(), row.latencies.p99_us))
        .collect();
    for row in rows.iter_mut().filter(|row| row.flood.is_some()) {
        let alone = alone.iter().find(|(set_up, _)| *set_up == row.set_up);
        row.p99_to_alone = alone.map(|(_, p99_us)| row.latencies.p99_us / p99_us);
    }
}

fn measure_all(
    load: &Load,
    set_ups: &[SetUp],
    progress: &ProgressBar,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    progress.inc_length(set_ups.len() as u64);
    for set_up in set_ups {
        let (request, stream) = &set_up.request;
        let flood = set_up.flood.as_ref();
        let flood_name = flood.map(|(flood, _)| flood.name);
        progress.set_message(name(&set_up.name, flood_name));
        let flood = flood.map(|(flood, stream)| (*flood, stream));
        let context = stream.context();
        rows.push(Row {
            set_up: set_up.name.clone(),
            flood: flood_name.map(str::to_owned),
            partition_sms: context.is_partitioned().then(|| context.sm_count()),
            latencies: load.measure(*request, stream, flood)?.into(),
            p99_to_alone: None,
        });
        progress.inc(1);
    }
    Ok(())
}

/// Makes a partition of this size and one of all other SMs.
fn two(device: &CudaDevice, sms: u32) -> anyhow::Result<(GreenContext, GreenContext)> {
    let manager = SmPartitionManager::on(device)?;
    let own = manager.create_context(ContextId::Embedding, config(sms))?;
    let left = manager.allocation_status().available_sms;
    let other = manager.create_context(ContextId::Dream, config(left))?;
    Ok((own, other))
}

/// Returns set-ups of one kernel beside both floods, in every way that people use.
fn comparison(device: &CudaDevice, sms: u32) -> anyhow::Result<Vec<SetUp>> {
    let whole = GreenContext::primary(device, ContextPolicy::default())?;
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

/// Returns set-ups of one kernel in a partition of this size, alone and beside both floods on all other SMs.
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

/// Returns set-ups of a row of small kernels in a partition, alone and beside tiny launches from another thread.
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

impl Figures for Isolation {
    fn table(&self) -> String {
        let mut table = format!("{:<52} {:>8} {:>8} {:>8}\n", "latency", "p50", "p99", "max");
        for row in &self.0 {
            let times = &row.latencies;
            let times = [times.p50_us, times.p99_us, times.max_us];
            let [p50, p99, max] = times.map(|microseconds| duration(microseconds * 1e3));
            table += &format!("{:<52} {p50:>8} {p99:>8} {max:>8}\n", row.name());
        }
        if self.0.iter().all(|row| row.p99_to_alone.is_none()) {
            return format!("{table}\n{NO_RATIOS}");
        }
        table += "\np99 beside a flood in another partition / p99 alone in the same partition";
        for row in &self.0 {
            if let Some(ratio) = row.p99_to_alone {
                table += &format!("\n{:<52} {ratio:>8.2}", row.name());
            }
        }
        table
    }
}

impl Drawn for Isolation {
    const COMMAND: &str = "isolation";
    const TITLE: &str = "Latency of one request while background work floods the GPU";
    const OF: &str = "requests";

    /// Returns the distributions beside the flood of long blocks, and that of the partition alone.
    fn curves(&self) -> Vec<Curve> {
        let shown = |row: &&Row| {
            let compared = row.flood.as_deref() == Some(LONG_BLOCKS.name);
            row.set_up == "alone, in a partition" || compared && !row.set_up.ends_with(" SMs")
        };
        let curve =
            |row: &Row| Curve::of_us(row.set_up.clone(), &row.latencies.percentiles_by_half_us);
        self.0.iter().filter(shown).map(curve).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::samples::Samples;

    #[test]
    fn a_row_beside_a_flood_is_held_against_the_same_set_up_alone() {
        let row = |set_up: &str, flood: Option<&str>, p99_us: f64| Row {
            set_up: set_up.to_owned(),
            flood: flood.map(str::to_owned),
            partition_sms: None,
            latencies: Samples::of(vec![p99_us]).into(),
            p99_to_alone: None,
        };
        let mut rows = [
            row("8 SMs", None, 2.0),
            row("8 SMs", Some("long blocks"), 3.0),
            row("16 SMs", None, 4.0),
            row("two plain streams", Some("long blocks"), 5.0),
        ];
        compare(&mut rows);
        let ratios = rows.each_ref().map(|row| row.p99_to_alone);
        assert_eq!(ratios, [None, Some(1.5), None, None]);
        let table = Isolation(rows.into()).table();
        assert!(
            table.ends_with("1.50") && !table.contains(NO_RATIOS),
            "{table}"
        );
    }
}

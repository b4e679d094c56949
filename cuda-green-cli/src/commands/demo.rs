//! `cuda-green demo`: a request's latency beside background work, without partitions and with them, and the SMs of
//! each partition; on the GPU if there is one, else on a simulated one.

#[cfg(feature = "embed")]
mod embedding;

use std::{process::ExitCode, time::Duration};

use cuda_green::{
    ContextPolicy, CudaDevice, Driver, Error, GreenContext, SmPartitionManager,
    planner::PartitionRequest, sys,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::bench::{
    load::{LONG_BLOCKS, Load, ONE_KERNEL},
    samples::Latencies,
};
use crate::{
    args::Global,
    partitions::{partitioned, without_partitions},
    render::{
        duration::duration,
        json,
        map::Map,
        page::{Page, described},
        style::{BOLD, GREEN, RED, YELLOW},
    },
};

/// The driver where no GPU is found and none was named.
const SIMULATED: &str = "sim:h200@13.0";
/// Names of the two partitions.
const REQUEST: &str = "request";
const BACKGROUND: &str = "background";
/// Requests in each set-up: on a GPU, and in virtual time, where more would change nothing.
const REQUESTS: usize = 400;
const SIMULATED_REQUESTS: usize = 200;
/// The time after which no further requests are made.
const LIMIT: Duration = Duration::from_secs(5);
/// The reason why figures of a simulation are not a GPU's.
const CAVEAT: &str = "SIMULATED: a model's figures in virtual time, not a GPU's";
/// The same for a simulated driver that was loaded as a library, whose clock is out of reach.
const MEANINGLESS: &str = "SIMULATED: these figures mean nothing";

pub fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let (device, absent) = device(global)?;
    let found = Demo::measure(&device)?;
    if global.json {
        let mut report = json::report(&device, "cuda-green demo --json", "demo", found.json());
        if let Some(caveat) = caveat(&device) {
            report["caveat"] = caveat.into();
        }
        json::print(&report)?;
    } else {
        found.page(&device, absent.as_deref()).print()?;
    }
    Ok(match &found.partitions {
        Ok(map) if !map.is_isolated() => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// Opens the device that was asked for. Where no driver was named and no GPU is found, opens a simulated one, and
/// returns the reason.
fn device(global: &Global) -> anyhow::Result<(CudaDevice, Option<String>)> {
    let absent = match global.device() {
        Ok(device) => return Ok((device, None)),
        Err(error) if global.names_driver() => return Err(error.into()),
        Err(Error::Load(sys::Error::DriverNotFound { .. })) => "no CUDA driver was found",
        Err(Error::NoGpu { .. }) => "the driver sees no GPU",
        Err(error) => return Err(error.into()),
    };
    let driver = Driver::open(&SIMULATED.parse()?)?;
    Ok((global.device_of(&driver)?, Some(absent.to_owned())))
}

fn caveat(device: &CudaDevice) -> Option<&'static str> {
    let driver = device.driver();
    match driver.simulator() {
        Some(_) => Some(CAVEAT),
        None => driver.is_simulated().then_some(MEANINGLESS),
    }
}

/// The latencies of one set-up.
#[derive(Serialize)]
struct Row {
    set_up: String,
    /// SMs of the request's partition; none where it has none.
    partition_sms: Option<u32>,
    beside_background_work: bool,
    requests: usize,
    p50_us: f64,
    p99_us: f64,
}

impl Row {
    fn new(
        set_up: &str,
        partition_sms: Option<u32>,
        beside_background_work: bool,
        latencies: &Latencies,
    ) -> Self {
        Self {
            set_up: set_up.to_owned(),
            partition_sms,
            beside_background_work,
            requests: latencies.requests,
            p50_us: latencies.p50_us,
            p99_us: latencies.p99_us,
        }
    }
}

/// All that the command found.
struct Demo {
    rows: Vec<Row>,
    /// The latencies of queries that are embedded, or the reason why there are none.
    embedding: Result<Vec<Row>, String>,
    /// The SMs of the partitions, or the reason why there are none.
    partitions: Result<Map, String>,
}

impl Demo {
    fn measure(device: &CudaDevice) -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}")?;
        let progress = ProgressBar::new(8).with_style(style);
        let found = Self::measured(&Stopwatch::new(device)?, &progress);
        progress.finish_and_clear();
        found
    }

    fn measured(stopwatch: &Stopwatch<'_>, progress: &ProgressBar) -> anyhow::Result<Self> {
        let device = stopwatch.device;
        let total = device.properties().multiprocessor_count;
        let whole = GreenContext::primary(device, ContextPolicy::default())?;
        let mut rows = Vec::new();
        let mut add = |set_up: &str, request: &GreenContext, background| -> anyhow::Result<()> {
            progress.set_message(set_up.to_owned());
            rows.push(stopwatch.row(set_up, request, background)?);
            progress.inc(1);
            Ok(())
        };
        add("alone", &whole, None)?;
        add(
            "beside background work, without partitions",
            &whole,
            Some(&whole),
        )?;
        let manager = match two(device)? {
            Ok(manager) => manager,
            Err(reason) => {
                return Ok(Self {
                    rows,
                    embedding: embedding(device, false, progress)?,
                    partitions: Err(reason),
                });
            }
        };
        let names = [REQUEST.to_owned(), BACKGROUND.to_owned()];
        let map = Map::new(total, &manager.verify()?, &names);
        let [request, background] = [manager.get_context(0)?, manager.get_context(1)?];
        let alone = format!("alone, in a partition of {} SMs", request.sm_count());
        add(&alone, &request, None)?;
        add(
            "beside background work, with partitions",
            &request,
            Some(&background),
        )?;
        // A manager splits the whole device, so there is one at a time.
        drop((request, background, manager));
        Ok(Self {
            rows,
            embedding: embedding(device, true, progress)?,
            partitions: Ok(map),
        })
    }

    fn json(&self) -> Value {
        json!({
            "latencies": self.rows,
            "embedding": self.embedding.as_ref().ok(),
            "without_embedding": self.embedding.as_ref().err(),
            "map": self.partitions.as_ref().ok().map(Map::json),
            "without_partitions": self.partitions.as_ref().err(),
        })
    }

    /// Returns the figures, the map, and the next commands; `absent` is why there is no GPU.
    fn page(&self, device: &CudaDevice, absent: Option<&str>) -> Page {
        let mut page = Page::new();
        let simulated = device.driver().is_simulated();
        if simulated {
            let reason = absent.map_or("no GPU is behind this".to_owned(), |absent| {
                format!("{absent}, so a simulated one stands in")
            });
            page.line(format!("{YELLOW}SIMULATED: {reason}{YELLOW:#}"));
        }
        page.hanging("", "  ", described(device));
        page.gap();
        page.line(
            "One request after another, beside background work that holds all SMs it may use for milliseconds at a \
             time:",
        );
        page.gap();
        table(&self.rows, simulated, &mut page);
        page.gap();
        match &self.embedding {
            Ok(rows) => {
                page.line(
                    "One text of 14 tokens after another, embedded by a model of MiniLM's shape beside bulk embedding:",
                );
                page.gap();
                table(rows, simulated, &mut page);
            }
            Err(reason) => page.line(format!(
                "{YELLOW}No texts are embedded here: {reason}{YELLOW:#}"
            )),
        }
        if let Some(caveat) = caveat(device) {
            page.line(format!("{YELLOW}{caveat}{YELLOW:#}"));
        }
        page.gap();
        match &self.partitions {
            Ok(map) => drawn(map, &mut page),
            Err(reason) => page.line(format!("{YELLOW}{reason}{YELLOW:#}")),
        }
        page.gap();
        page.hanging(
            &format!("{GREEN}Next:{GREEN:#} "),
            "      ",
            self.next(simulated),
        );
        page
    }

    fn next(&self, simulated: bool) -> &'static str {
        match &self.partitions {
            Ok(map) if !map.is_isolated() => "`cuda-green check` says what is wrong.",
            _ if simulated => {
                "`cuda-green info` says what this machine has; on one with a GPU, `cuda-green demo` measures that."
            }
            Ok(_) => {
                "`cuda-green check` says whether partitions hold on this machine, and `cuda-green bench isolation` \
                 measures more set-ups."
            }
            Err(_) => {
                "`cuda-green info` lists what this driver has and what a newer one would add."
            }
        }
    }
}

/// Adds latencies.
fn table(rows: &[Row], simulated: bool, page: &mut Page) {
    let label = if simulated {
        "SIMULATED latency"
    } else {
        "latency"
    };
    page.line(format!(
        "{BOLD}{label:<48} {:>9} {:>9}{BOLD:#}",
        "p50", "p99"
    ));
    for row in rows {
        let [p50, p99] = [row.p50_us, row.p99_us].map(|us| duration(us * 1e3));
        page.line(format!("{:<48} {p50:>9} {p99:>9}", row.set_up));
    }
}

/// Measures queries beside bulk embedding, or returns the reason why it cannot.
#[cfg(feature = "embed")]
fn embedding(
    device: &CudaDevice,
    partitions: bool,
    progress: &ProgressBar,
) -> anyhow::Result<Result<Vec<Row>, String>> {
    embedding::measure(device, partitions, progress)
}

#[cfg(not(feature = "embed"))]
#[allow(clippy::unnecessary_wraps)] // as with the feature
fn embedding(_: &CudaDevice, _: bool, _: &ProgressBar) -> anyhow::Result<Result<Vec<Row>, String>> {
    Ok(Err(
        "this program was built without the feature `embed`".to_owned()
    ))
}

/// Adds the map, with what it means.
fn drawn(map: &Map, page: &mut Page) {
    if map.is_isolated() {
        page.line(
            "A request takes longer in a partition, which has fewer SMs than the GPU. Background work on other SMs does not \
             change that, but for the memory, the caches and the clock, which all SMs share:",
        );
    } else {
        page.line(format!(
            "{RED}Partitions do not hold here: some SMs are in both.{RED:#}"
        ));
    }
    page.gap();
    map.draw(page);
}

/// Makes a partition of a quarter of the SMs and one of the others, or returns the reason why there can be none.
fn two(device: &CudaDevice) -> anyhow::Result<Result<SmPartitionManager<usize>, String>> {
    if let Some(reason) = device.missing_features() {
        let instead = without_partitions(device);
        return Ok(Err(format!("No partitions here: {reason}. {instead}")));
    }
    let asked = [
        (
            REQUEST.to_owned(),
            PartitionRequest::target(request_sms(device)),
        ),
        (BACKGROUND.to_owned(), PartitionRequest::rest()),
    ];
    match partitioned(device, &asked) {
        Ok(manager) => Ok(Ok(manager)),
        Err(error) => match error.downcast_ref() {
            Some(
                Error::InsufficientSms { .. }
                | Error::UnitsTooCoarse { .. }
                | Error::LimitedByMps { .. },
            ) => Ok(Err(format!("No partitions here: {error}."))),
            _ => Err(error),
        },
    }
}

/// Returns the size of a request's partition: a quarter of the SMs.
fn request_sms(device: &CudaDevice) -> u32 {
    (device.properties().multiprocessor_count / 4).max(2) & !1
}

/// Measures latencies on one device.
struct Stopwatch<'a> {
    device: &'a CudaDevice,
    load: Load,
}

impl<'a> Stopwatch<'a> {
    fn new(device: &'a CudaDevice) -> anyhow::Result<Self> {
        let driver = device.driver();
        let load = if driver.simulator().is_some() {
            Load::of(device, SIMULATED_REQUESTS, LIMIT)?
        } else {
            // The host's times mean nothing on a simulated driver, so few of them will do.
            Load::of(
                device,
                if driver.is_simulated() { 5 } else { REQUESTS },
                LIMIT,
            )?
        };
        Ok(Self { device, load })
    }

    /// Measures requests in a stream of one context, beside background work in another context or alone.
    fn row(
        &self,
        set_up: &str,
        request: &GreenContext,
        background: Option<&GreenContext>,
    ) -> anyhow::Result<Row> {
        let stream = request.create_stream()?;
        let background = background.map(GreenContext::create_stream).transpose()?;
        let flood = background.as_ref().map(|stream| (LONG_BLOCKS, stream));
        let samples = match self.device.driver().simulator() {
            Some(sim) => self
                .load
                .measure_in_virtual_time(sim, ONE_KERNEL, &stream, flood)?,
            None => self.load.measure(ONE_KERNEL, &stream, flood)?,
        };
        let sms = request.is_partitioned().then(|| request.sm_count());
        Ok(Row::new(set_up, sms, flood.is_some(), &samples.into()))
    }
}

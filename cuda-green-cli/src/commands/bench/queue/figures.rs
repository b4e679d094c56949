//! The figures of a run, as its JSON has them.

use serde::{Deserialize, Serialize};

use super::times::{Found, Trips};
use crate::{
    commands::bench::{goal::Goal, run::Drawn, watch::Readings},
    render::svg::Curve,
};

#[derive(Serialize, Deserialize)]
pub struct QueueFigures {
    pub setting: Setting,
    /// Everything that was measured by the number of warps, each way beside the others.
    pub rows: Vec<Row>,
    /// Tasks that threads of the CPU submit.
    #[serde(default)]
    pub host: Vec<HostRow>,
    pub idle: Option<Idle>,
    /// A request in a partition, with and without another's tasks.
    #[serde(default)]
    pub beside: Option<Beside>,
    /// What could not be measured here, and why.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// Empty on a simulated driver.
    #[serde(default)]
    pub goals: Vec<Goal>,
}

/// The machine and the extent of the run.
#[derive(Serialize, Deserialize)]
pub struct Setting {
    pub cores: usize,
    pub depth: u32,
    pub payload_bytes: u32,
    pub repeats: usize,
    pub seconds: f64,
    /// The means of the run; none without NVML.
    #[serde(flatten)]
    pub readings: Option<Readings>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A kernel's flag to the CPU and one back, with release and acquire: the floor.
    PingPong,
    /// An empty task and its answer, by a handler on the polling thread.
    Inline,
    /// The same by a handler on the pool.
    Pooled,
    /// Tasks without answers.
    OneWay,
    /// Tasks of all lanes of a warp at once.
    WarpWide,
    /// Tasks and answers of many warps at once.
    RoundTrip,
    /// The CPU's flag to a kernel and one back.
    HostPingPong,
    /// A task of the CPU to a resident kernel, and its answer.
    Resident,
    /// A launch of an empty kernel, and the wait for its end.
    Launch,
    /// A kernel's task to a resident kernel, and its answer.
    KernelToKernel,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            Self::PingPong => "flag ping-pong, kernel and CPU",
            Self::Inline => "empty task and answer, inline handler",
            Self::Pooled => "empty task and answer, by the pool",
            Self::OneWay => "tasks one way",
            Self::WarpWide => "tasks one way, warp-wide",
            Self::RoundTrip => "tasks and answers",
            Self::HostPingPong => "flag ping-pong, CPU and kernel",
            Self::Resident => "CPU to resident kernel and back",
            Self::Launch => "launch and synchronise",
            Self::KernelToKernel => "kernel to resident kernel and back",
        }
    }
}

/// The way in which it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Queue,
    /// A loop of raw loads and stores, with a compare-and-swap for the head of each ring.
    Raw,
}

/// A way of doing something, and how many do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub what: What,
    pub by: By,
    pub lanes: u32,
    pub warps: u32,
    pub polling_threads: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub shape: Shape,
    /// The tasks of each repeat.
    pub tasks: u64,
    pub m_per_s: Option<Found>,
    pub trips: Option<Trips>,
}

/// Tasks of the CPU to the CPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostRow {
    pub path: String,
    pub tasks: u64,
    /// The submission alone.
    pub submit_ns: Found,
    /// The submission and the run, one task after another.
    pub all_ns: Found,
    /// A task and its answer, awaited.
    pub answered_ns: Found,
}

/// The polling thread without work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    pub idle_before_ms: f64,
    pub watched_ms: f64,
    /// The processor time of the queue's threads, in percent of a core.
    pub percent_of_a_core: Found,
    /// The first task and its answer after a pause.
    pub first: Trips,
}

/// A request beside tasks of another partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beside {
    pub request: String,
    pub partition_sms: u32,
    pub wanted_m_per_s: f64,
    pub found_m_per_s: Found,
    pub alone: Trips,
    pub beside: Trips,
    /// The p99 beside the tasks as a multiple of the p99 alone, of each repeat. None on a simulated driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_to_alone: Option<Found>,
}

impl QueueFigures {
    /// Returns the rows of a way to do something.
    pub fn of(&self, what: What, by: By) -> impl Iterator<Item = &Row> {
        let rows = self.rows.iter();
        rows.filter(move |row| (row.shape.what, row.shape.by) == (what, by))
    }
}

impl Drawn for QueueFigures {
    const COMMAND: &str = "queue";
    const TITLE: &str = "A task of a kernel and the CPU's answer";
    const OF: &str = "round trips";
    const NOTE: Option<&str> = Some("By hand: a ring with compare-and-swap.");

    /// Returns the distributions of round trips, from the queue's to the floor.
    fn curves(&self) -> Vec<Curve> {
        let shown = |row: &&Row| match row.shape.what {
            What::RoundTrip => row.shape.warps >= 528,
            What::PingPong => true,
            What::Inline => row.shape.by == By::Queue,
            _ => false,
        };
        let mut rows: Vec<_> = self.rows.iter().filter(shown).collect();
        // Those of few warps are drawn on a simulated driver, which has no others.
        if !rows.iter().any(|row| row.shape.what == What::RoundTrip) {
            rows = self.rows.iter().filter(|row| row.trips.is_some()).collect();
        }
        // A curve for each way and number of warps: with a polling thread, or one for each lane if there are both.
        rows.dedup_by_key(|row| (row.shape.what, row.shape.by, row.shape.warps));
        let curve = |row: &&Row| {
            let trips = row.trips.as_ref()?;
            Some(Curve::of_us(
                row.shape.short(),
                &trips.percentiles_by_half_us,
            ))
        };
        rows.iter().filter_map(curve).take(6).collect()
    }
}

impl Shape {
    /// Returns its name while it is measured.
    pub fn name(&self) -> String {
        let way = match self.by {
            By::Queue => "queue",
            By::Raw => "by hand",
        };
        format!(
            "{}, {way}, {} warps, {} lanes",
            self.what.name(),
            self.warps,
            self.lanes
        )
    }

    /// Returns its name in a picture.
    fn short(&self) -> String {
        let way = match (self.what, self.by) {
            (What::PingPong | What::HostPingPong | What::Launch, _) => {
                return self.what.name().to_owned();
            }
            (_, By::Queue) => "the queue",
            (_, By::Raw) => "by hand",
        };
        let warps = match self.warps {
            1 => "1 warp".to_owned(),
            warps => format!("{warps} warps"),
        };
        format!("{way}, {warps}, {} lanes", self.lanes)
    }
}

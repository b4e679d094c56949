//! The command line of `cuda-green bench`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum, value_parser};

#[derive(clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: Measurement,
    /// Make a short run that only shows that it works, as always on a simulated driver; its figures mean nothing
    #[arg(long, global = true)]
    pub quick: bool,
}

#[derive(Subcommand)]
pub enum Measurement {
    /// The latency of a request while background work floods the GPU
    Isolation(Drawing),
    /// The cost of activating a context, of launches, events and creation, beside raw calls
    Activate(Drawing),
    /// The cost of an allocation and its release, beside the driver's pool and `cuMemAlloc`
    ///
    /// On one thread and on several; the fragmentation that a random workload leaves; and a soak of 20 seconds. Exits
    /// with 1 if the driver's own counters differ from those before the soak.
    Alloc {
        #[command(flatten)]
        drawing: Drawing,
        /// Run only the soak, for this many seconds
        #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true,
              conflicts_with_all = ["svg", "from", "quick"])]
        soak: Option<f64>,
        /// Number of threads of the soak
        #[arg(long, value_name = "N", default_value_t = 8, requires = "soak",
              value_parser = value_parser!(u16).range(1..=1024))]
        threads: u16,
    },
    /// The cost of a rebalance, and of the first launch after it
    Rebalance(Drawing),
    /// The cost of calls while background work floods the GPU, and which of them wait for it
    UnderLoad,
    /// Text embeddings of a model: texts a second, the latency of one, by SMs, and the vectors' accuracy
    ///
    /// Takes some minutes. The first vector's time is that of a process of this program, from its start to its end.
    #[cfg(feature = "embed")]
    Embed(EmbedBench),
    /// A query beside background work, by the ways to place both on the GPU, one by one and by a schedule
    ///
    /// Takes five minutes. Beside matrix products, copies, training steps, bulk embedding and tiny launches: on plain
    /// streams, with priorities, in partitions, and with the background left in the primary context.
    #[cfg(feature = "embed")]
    Service(ServiceBench),
    /// Tasks that kernels submit to the CPU and back, by the queue and by hand-written loops
    ///
    /// Takes two minutes. Rates one way and round trips by the number of warps, a resident kernel's beside a launch's, an
    /// idle poller, and requests in a partition beside another's tasks. A sum that does not match is an error.
    #[cfg(feature = "queue")]
    Queue(QueueBench),
    /// A request of one process beside another process's background work, by the ways to share the GPU
    ///
    /// Takes two minutes. It starts two processes and an MPS daemon of its own, and ends them: time slices, MPS without
    /// limits, with client priorities and with thread percentages, and green contexts of one plan.
    #[cfg(feature = "processes")]
    Processes(ProcessesBench),
    /// The time that loading the driver and checking for a GPU add to a process's start
    Startup {
        /// Measure only this, once, in this process, and print nanoseconds
        #[arg(long, hide = true)]
        only: Option<StartupPart>,
    },
}

/// The model, the texts, and the peers' figures.
#[cfg(feature = "embed")]
#[derive(clap::Args)]
pub struct EmbedBench {
    #[command(flatten)]
    pub drawing: Drawing,
    #[command(flatten)]
    pub source: EmbedSource,
    /// The output of peers_embed.py in the same run, to compare with
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub peers: Option<PathBuf>,
    /// Make one vector, print nothing, and exit
    #[arg(long, hide = true)]
    pub only_first: bool,
}

/// The picture, the model and the texts.
#[cfg(feature = "embed")]
#[derive(clap::Args)]
pub struct ServiceBench {
    #[command(flatten)]
    pub drawing: Drawing,
    #[command(flatten)]
    pub source: EmbedSource,
}

/// The model and the texts.
#[cfg(feature = "embed")]
#[derive(clap::Args)]
pub struct EmbedSource {
    /// The model's folder, as Hugging Face and sentence-transformers lay it out
    #[arg(long, value_name = "DIR", required_unless_present = "from")]
    pub model: Option<PathBuf>,
    /// Texts, one a line, of which the first 100,000 count
    #[arg(long, value_name = "FILE", required_unless_present = "from")]
    pub texts: Option<PathBuf>,
}

/// The picture, and the length of a soak.
#[cfg(feature = "queue")]
#[derive(clap::Args)]
pub struct QueueBench {
    #[command(flatten)]
    pub drawing: Drawing,
    /// Run only a soak of this many tasks, and compare the sums
    #[arg(long, value_name = "N", conflicts_with_all = ["svg", "from", "quick"],
          value_parser = value_parser!(u64).range(1..=1_000_000_000_000))]
    pub tasks: Option<u64>,
}

/// The picture, and the daemon.
#[cfg(feature = "processes")]
#[derive(clap::Args)]
pub struct ProcessesBench {
    #[command(flatten)]
    pub drawing: Drawing,
    /// Start no MPS daemon, and leave out what needs one
    #[arg(long, conflicts_with = "from")]
    pub no_mps_daemon: bool,
    /// Take orders from the measuring process
    #[arg(long, hide = true)]
    pub part: Option<ProcessPart>,
}

/// The part of a process that the measurement starts.
#[cfg(feature = "processes")]
#[derive(Clone, Copy, ValueEnum)]
pub enum ProcessPart {
    /// Keeps the folder of the run and the MPS daemon.
    Keeper,
    /// Sends requests, or floods the GPU.
    Worker,
}

/// The file for a measurement's picture, and the figures to draw.
#[derive(clap::Args)]
pub struct Drawing {
    /// Draw the distributions of the latencies as an SVG picture
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Take the figures from the output of an earlier run with `--json`
    #[arg(long, value_name = "FILE", requires = "svg", conflicts_with_all = ["json", "quick"])]
    pub from: Option<PathBuf>,
}

/// The part that a new process measures.
#[derive(Clone, Copy, ValueEnum)]
pub enum StartupPart {
    /// The resolution of every entry point, with the library already loaded.
    Load,
    /// The check after loading and initialising the driver by hand.
    Adds,
    /// The check alone.
    First,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    seconds
        .filter(|seconds| (0.1..=1e6).contains(seconds))
        .ok_or_else(|| "a soak takes 0.1 to 1000000 seconds".to_owned())
}

//! The command line of `cuda-green bench`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum, value_parser};

#[derive(clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: Measurement,
    /// A small run that only shows that it works, as always on a simulated driver; its figures mean nothing
    #[arg(long, global = true)]
    pub quick: bool,
}

#[derive(Subcommand)]
pub enum Measurement {
    /// The latency of a request while background work floods the GPU
    Isolation(Drawing),
    /// What it costs to make a context current, to launch, to record and to create, beside the raw calls
    Activate(Drawing),
    /// What an allocation and its end cost, beside the driver's pool and `cuMemAlloc`
    ///
    /// On one thread and on several; what a random workload leaves in pieces; and a soak of 20 seconds. Exits
    /// with 1 where the driver's own counters are not where they were before the soak.
    Alloc {
        #[command(flatten)]
        drawing: Drawing,
        /// The soak alone, for so many seconds
        #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true,
              conflicts_with_all = ["svg", "from", "quick"])]
        soak: Option<f64>,
        /// Threads of the soak
        #[arg(long, value_name = "N", default_value_t = 8, requires = "soak",
              value_parser = value_parser!(u16).range(1..=1024))]
        threads: u16,
    },
    /// What a rebalance costs, and the first launch after it
    Rebalance(Drawing),
    /// What calls cost while background work floods the GPU: which of them wait for it
    UnderLoad,
    /// What loading the driver and checking for a GPU add to the start of a process
    Startup {
        /// In a process of its own: measures this one thing, once, and prints nanoseconds
        #[arg(long, hide = true)]
        only: Option<StartupPart>,
    },
}

/// Where a measurement's picture goes, and what it is drawn from.
#[derive(clap::Args)]
pub struct Drawing {
    /// Draw the distributions of the latencies as an SVG picture
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Take the figures from a file that `--json` gave before, instead of measuring
    #[arg(long, value_name = "FILE", requires = "svg", conflicts_with_all = ["json", "quick"])]
    pub from: Option<PathBuf>,
}

/// The one thing that a new process measures.
#[derive(Clone, Copy, ValueEnum)]
pub enum StartupPart {
    /// Resolving every entry point, the library loaded already.
    Load,
    /// Loading and initialising by hand, and then the check.
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

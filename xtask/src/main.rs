//! The workspace's own commands: `cargo xtask <command>`, one file for each.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

mod artifacts;
mod bench;
mod bindings;
mod fetch;
#[cfg(test)]
mod floors;
mod gpu_bundle;
mod kernels;
mod matrix;
mod mutants;
mod published;
mod safety;
mod skipped;
mod test;
#[cfg(test)]
mod workflows;

/// The workspace's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetches what the tests use: CUDA headers, real drivers, compilers, a model, texts and more.
    Fetch(fetch::Options),
    /// Runs every check, or one part: formatting, clippy, tests, documentation, the published crates as their users
    /// get them, Miri and valgrind. Fetches first.
    Test(test::Options),
    /// Breaks the queue's protocol line by line, and expects a test to fail each time.
    Mutants,
    /// Looks for undefined behaviour and panics: Miri, valgrind, AddressSanitizer, the fuzzer.
    Safety,
    /// Writes cuda-green-sys's bindings.rs and MATRIX.md.
    Bindings,
    /// Compiles the kernels of the encoder and those that use the queue from CUDA C to the committed PTX.
    Kernels,
    /// Prints which entry points and struct fields each CUDA version has, and the conformance table.
    Matrix(matrix::Options),
    /// Packs the driver matrix's report, the suite, the example and the benchmarks for a GPU machine that has
    /// nothing else.
    GpuBundle,
    /// Measures on this machine's GPU and writes `evidence/`.
    Bench,
}

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Fetch(options) => fetch::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Mutants => mutants::run(),
        Command::Safety => safety::run(),
        Command::Bindings => bindings::run(),
        Command::Kernels => kernels::run(),
        Command::Matrix(options) => matrix::run(&options),
        Command::GpuBundle => gpu_bundle::run(),
        Command::Bench => bench::run(),
    }
}

/// The workspace's root, from which every command runs.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

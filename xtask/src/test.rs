//! `cargo xtask test`: every check there is, in the order in which failing is cheapest, or one part of them.

mod programs;

use std::thread;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::{artifacts, fetch, kernels, published, safety, skipped};

/// A part of the checks. CI runs each as a job.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Part {
    /// Formatting, clippy with each feature, documentation.
    Lint,
    /// The tests of all packages but `driver-matrix`, without a C compiler. Those of the embeddings read a model and
    /// texts that are fetched.
    Test,
    /// The package `driver-matrix`: bindings against every CUDA header, the loader against every real driver, the
    /// suite and the conformance cases, the queue's header under ThreadSanitizer. That header by three compilers, and
    /// the compiled kernels against their source. Miri and valgrind.
    Matrix,
    /// The published crates as their users get them.
    Published,
}

#[derive(clap::Args)]
pub struct Options {
    /// Runs this part alone.
    part: Option<Part>,
}

pub fn run(options: &Options) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let list = skipped::start().context("cannot make a temporary file")?;
    let _variable = shell.push_env(skipped::FILE_VARIABLE, list.path());
    let runs = |part| options.part.is_none_or(|only| only == part);

    let mut skipped = Vec::new();
    if runs(Part::Lint) {
        cmd!(shell, "cargo fmt --all --check").run()?;
    }
    if options.part != Some(Part::Published) {
        skipped.extend(fetch(|place| match options.part {
            None => true,
            Some(part) => artifacts::is_for_crates(place) == (part == Part::Test),
        })?);
    }
    if runs(Part::Lint) {
        clippy(&shell)?;
    }
    if runs(Part::Test) || runs(Part::Matrix) {
        tests(&shell, options.part)?;
    }
    if runs(Part::Lint) {
        let _flags = shell.push_env("RUSTDOCFLAGS", "-D warnings");
        cmd!(shell, "cargo doc --workspace --no-deps").run()?;
    }
    if runs(Part::Published) {
        skipped.extend(published::check(&shell)?);
    }
    if runs(Part::Matrix) {
        skipped.extend(kernels_and_safety(&shell, packages(options.part))?);
    }

    let mut lines = skipped::lines(list.path());
    lines.extend(skipped);
    if lines.is_empty() {
        println!("all green, nothing skipped");
    } else {
        println!("all green, but skipped:");
        for line in lines {
            println!("  {line}");
        }
    }
    Ok(())
}

/// Checks the kernels and, at the same time, the quick half of safety: each keeps one core busy.
fn kernels_and_safety(shell: &Shell, packages: &[&str]) -> Result<Vec<String>> {
    let (kernels, safety) = thread::scope(|scope| {
        let kernels = scope.spawn(kernels::check);
        let safety = safety::quick(shell, packages);
        (kernels.join(), safety)
    });
    let kernels = kernels.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(kernels.into_iter().chain(safety?).collect())
}

/// Fetches what the tests read; returns a line for each place that stays empty, unless all are required.
fn fetch(wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let missing = fetch::fetch(wanted)?;
    ensure!(
        missing.is_empty() || !skipped::matrix_is_required(),
        "CUDA_GREEN_REQUIRE_MATRIX=1, and this could not be fetched:\n{}",
        missing.join("\n")
    );
    let lines = missing.iter().map(|line| format!("not fetched: {line}"));
    Ok(lines.collect())
}

fn clippy(shell: &Shell) -> Result<()> {
    cmd!(
        shell,
        "cargo clippy --workspace --all-targets -- -D warnings"
    )
    .run()?;
    // Each feature by itself, so that none needs another without saying so; then all of them.
    for feature in ["metrics", "serde", "test-utils", "tracing"] {
        cmd!(
            shell,
            "cargo clippy --package cuda-green --features {feature} -- -D warnings"
        )
        .run()?;
    }
    for feature in ["metrics", "serde", "test-utils", "tracing"] {
        cmd!(
            shell,
            "cargo clippy --package cuda-green-queue --features {feature} -- -D warnings"
        )
        .run()?;
    }
    for feature in ["cli", "metrics", "serde", "server", "test-utils", "tracing"] {
        cmd!(
            shell,
            "cargo clippy --package cuda-green-embed --features {feature} -- -D warnings"
        )
        .run()?;
    }
    cmd!(
        shell,
        "cargo clippy --workspace --all-targets --all-features -- -D warnings"
    )
    .run()?;
    Ok(())
}

/// The packages of a part's tests, or of both parts at once, so that cargo builds what they share once.
fn packages(part: Option<Part>) -> &'static [&'static str] {
    match part {
        None => &["--workspace"],
        Some(Part::Matrix) => &["--package=driver-matrix"],
        Some(_) => &["--workspace", "--exclude=driver-matrix"],
    }
}

/// Runs the tests of one part, or of both at once.
fn tests(shell: &Shell, part: Option<Part>) -> Result<()> {
    // The same random cases each time, so that a red run can be had again; `cargo test` alone tries others.
    let _seed = shell.push_env("PROPTEST_RNG_SEED", "12345");
    programs::run(shell, packages(part))?;
    if part != Some(Part::Matrix) {
        loom(shell)?;
    }
    Ok(())
}

/// Runs the tests that try every interleaving of their threads. In a target folder of their own, since the flag would
/// have cargo build everything again.
fn loom(shell: &Shell) -> Result<()> {
    let _flags = shell.push_env("RUSTFLAGS", "--cfg loom");
    cmd!(
        shell,
        "cargo test --package cuda-green --package cuda-green-queue --target-dir target/loom --lib _loom"
    )
    .run()?;
    Ok(())
}

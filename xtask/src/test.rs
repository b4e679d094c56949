//! `cargo xtask test`: every check there is, in the order in which failing is cheapest, or one part of them.

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
        skipped.extend(kernels::check()?);
        skipped.extend(safety::quick(&shell)?);
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

/// Runs the tests of one part, or of both at once, so that cargo builds what they share once.
fn tests(shell: &Shell, part: Option<Part>) -> Result<()> {
    let packages: &[&str] = match part {
        None => &["--workspace"],
        Some(Part::Matrix) => &["--package=driver-matrix"],
        Some(_) => &["--workspace", "--exclude=driver-matrix"],
    };
    // The same random cases each time, so that a red run can be had again; `cargo test` alone tries others.
    let _seed = shell.push_env("PROPTEST_RNG_SEED", "12345");
    // Doc tests included: the READMEs' examples are among them.
    cmd!(shell, "cargo test {packages...} --no-fail-fast").run()?;
    if part != Some(Part::Matrix) {
        // These need features that nothing else in the workspace has.
        cmd!(
            shell,
            "cargo test --package cuda-green --all-features --test facades"
        )
        .run()?;
        cmd!(
            shell,
            "cargo test --package cuda-green-queue --all-features --lib"
        )
        .run()?;
        cmd!(
            shell,
            "cargo test --package cuda-green-embed --features server --bins --test program"
        )
        .run()?;
        // Half a minute, so no part of `cargo test`.
        cmd!(
            shell,
            "cargo test --package cuda-green-embed --test library all_glosses -- --ignored"
        )
        .run()?;
        loom(shell)?;
    }
    Ok(())
}

/// Runs the tests that try every interleaving of their threads. In a target folder of their own, since the flag would
/// have cargo build everything again.
fn loom(shell: &Shell) -> Result<()> {
    let _flags = shell.push_env("RUSTFLAGS", "--cfg loom");
    for package in ["cuda-green", "cuda-green-queue"] {
        cmd!(
            shell,
            "cargo test --package {package} --target-dir target/loom --lib _loom"
        )
        .run()?;
    }
    Ok(())
}

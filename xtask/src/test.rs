//! `cargo xtask test`: every check there is, in the order in which failing is cheapest.

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::{fetch, skipped};

/// The crates that are published.
const PUBLISHED: [&str; 3] = ["cuda-green-sys", "cuda-green-sim", "cuda-green"];

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let required = skipped::matrix_is_required();
    let list = skipped::start().context("cannot write under target/")?;
    let _variable = shell.push_env(skipped::FILE_VARIABLE, &list);

    cmd!(shell, "cargo fmt --all --check").run()?;

    let missing = fetch::fetch()?;
    ensure!(
        missing.is_empty() || !required,
        "CUDA_GREEN_REQUIRE_MATRIX=1, and this could not be fetched:\n{}",
        missing.join("\n")
    );

    cmd!(
        shell,
        "cargo clippy --workspace --all-targets -- -D warnings"
    )
    .run()?;
    // Doc tests included: the READMEs' examples are among them.
    cmd!(shell, "cargo test --workspace --no-fail-fast").run()?;
    // A user may want none of the features, and must not need what the workspace's tests need.
    for package in PUBLISHED {
        cmd!(
            shell,
            "cargo clippy --package {package} --no-default-features -- -D warnings"
        )
        .run()?;
    }
    // What is published must build from its archive alone.
    let packages = PUBLISHED.map(|package| format!("--package={package}"));
    cmd!(shell, "cargo package --quiet --allow-dirty {packages...}").run()?;
    let msrv = msrv(&shell, required)?;
    {
        let _flags = shell.push_env("RUSTDOCFLAGS", "-D warnings");
        cmd!(shell, "cargo doc --workspace --no-deps").run()?;
    }

    let mut lines = skipped::lines(&list);
    lines.extend(msrv);
    lines.extend(missing.iter().map(|line| format!("not fetched: {line}")));
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

/// Checks the published crates with the oldest Rust that they promise to build with, or says why not.
/// Where as little as possible is to be skipped, rustup is asked for that toolchain first.
fn msrv(shell: &Shell, install: bool) -> Result<Option<String>> {
    let version = env!("CARGO_PKG_RUST_VERSION");
    let there = || {
        let rustc = cmd!(shell, "rustup run {version} rustc --version");
        rustc.quiet().ignore_stderr().read().is_ok()
    };
    if install && !there() {
        // That it failed shows in the next line.
        let _ = cmd!(
            shell,
            "rustup toolchain install {version} --profile minimal"
        )
        .run();
    }
    if !there() {
        return Ok(Some(format!(
            "Rust {version}: `rustup toolchain install {version}` would add it"
        )));
    }
    let packages = PUBLISHED.map(|package| format!("--package={package}"));
    // A folder of its own, or each of the two compilers would undo what the other has built.
    cmd!(
        shell,
        "rustup run {version} cargo check {packages...} --all-features --target-dir target/msrv"
    )
    .run()?;
    Ok(None)
}

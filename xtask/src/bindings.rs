//! `cargo xtask bindings`: writes `cuda-green-sys/src/bindings.rs` anew from the newest header,
//! and `cuda-green-sys/MATRIX.md` with it.
//!
//! The root package's build script makes the bindings. It reads the table of entry points as text and
//! does not need cuda-green-sys to compile, which it cannot while the table names types that the
//! bindings do not have yet.

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{artifacts, fetch, matrix};

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    for line in fetch::fetch(|place| !artifacts::is_for_crates(place))? {
        eprintln!("not fetched: {line}");
    }
    // `--keep-going` runs the build script even where a crate does not compile; that is no failure yet.
    let output = cmd!(
        shell,
        "cargo check --package driver-matrix --lib --keep-going --message-format=json"
    )
    .ignore_status()
    .ignore_stderr()
    .read()?;
    let out_dir = out_dir(&output).context(
        "the root package's build script did not run: `cargo check --package driver-matrix` tells why",
    )?;
    let newest = artifacts::headers().next_back().unwrap_or_default();
    let generated = format!("{out_dir}/{newest}.rs");
    let text = shell.read_file(&generated).with_context(|| {
        format!("no bindings were made: is header {newest} or libclang missing?")
    })?;
    let committed = "cuda-green-sys/src/bindings.rs";
    shell.write_file(committed, text)?;
    cmd!(shell, "rustfmt --edition 2024 {committed}").run()?;
    println!("wrote {committed}");
    matrix::run(&matrix::Options { write: true })
        .context("the bindings are written, cuda-green-sys/MATRIX.md is not")
}

/// The build script's `OUT_DIR` from cargo's messages, one JSON object a line.
fn out_dir(messages: &str) -> Option<&str> {
    let line = messages.lines().find(|line| {
        line.contains(r#""reason":"build-script-executed""#) && line.contains("driver-matrix")
    })?;
    line.split_once(r#""out_dir":""#)?.1.split('"').next()
}

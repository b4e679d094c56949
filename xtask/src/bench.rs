//! `cargo xtask bench`: what the library costs and what it gives, measured on this machine's GPU and
//! written to `evidence/`.

use std::fs::OpenOptions;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

const BENCHES: [&str; 6] = [
    "activate",
    "alloc",
    "rebalance",
    "startup",
    "under-load",
    "isolation",
];

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let commit = cmd!(shell, "git rev-parse HEAD").read()?;
    let _commit = shell.push_env("CUDA_GREEN_COMMIT", commit);
    // Before anything is measured, which takes minutes.
    for bench in BENCHES {
        let path = evidence(bench);
        let opened = OpenOptions::new()
            .append(true)
            .open(crate::root().join(&path));
        opened.with_context(|| path)?;
    }
    for bench in BENCHES {
        let figures = cmd!(
            shell,
            "cargo run --release --package cuda-green-cli -- --driver system bench {bench} --json"
        )
        .read()?;
        shell.write_file(evidence(bench), figures + "\n")?;
    }
    Ok(())
}

fn evidence(bench: &str) -> String {
    format!("evidence/{bench}.json")
}

//! `cargo xtask bench`: what the library costs and what it gives, measured on this machine's GPU and
//! written to `evidence/`.

use anyhow::Result;
use xshell::{Shell, cmd};

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let commit = cmd!(shell, "git rev-parse HEAD").read()?;
    let _commit = shell.push_env("CUDA_GREEN_COMMIT", commit);
    for bench in [
        "activate",
        "alloc",
        "rebalance",
        "startup",
        "under-load",
        "isolation",
    ] {
        let figures = cmd!(
            shell,
            "cargo run --release --package cuda-green-cli -- --driver system bench {bench} --json"
        )
        .read()?;
        shell.write_file(format!("evidence/{bench}.json"), figures + "\n")?;
    }
    Ok(())
}

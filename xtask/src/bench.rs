//! `cargo xtask bench`: what the library costs and what it gives, measured on this machine's GPU and
//! written to `evidence/`.

use anyhow::Result;
use xshell::{Shell, cmd};

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let commit = cmd!(shell, "git rev-parse HEAD").read()?;
    let _commit = shell.push_env("CUDA_GREEN_COMMIT", commit);
    for bench in ["host_cost", "memory"] {
        // A benchmark runs in its package's folder, which is the root.
        let out = format!("evidence/{bench}.json");
        cmd!(
            shell,
            "cargo bench --package driver-matrix --bench {bench} -- --driver system --out {out}"
        )
        .run()?;
    }
    let isolation = cmd!(
        shell,
        "cargo run --release --package cuda-green-cli -- --driver system bench isolation --json"
    )
    .read()?;
    shell.write_file("evidence/isolation.json", isolation + "\n")?;
    Ok(())
}

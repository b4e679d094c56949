//! `cargo xtask gpu-bundle`: packs the driver matrix's report, the suite, the examples and the program with its
//! benchmarks into one archive that runs on a machine with a GPU and nothing else: no Rust, no CUDA toolkit, no
//! network.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

/// Largest size of the archive in bytes, so that it can be copied anywhere.
const LIMIT: u64 = 60 << 20;

/// The executables: the package, kind and name of the target of each.
const TARGETS: [(&str, &str, &str); 14] = [
    ("cuda-green-cli", "--bin", "cuda-green"),
    ("cuda-green-embed", "--bin", "cuda-green-embed"),
    ("cuda-green-embed", "--example", "server_load"),
    ("driver-matrix", "--bin", "driver-matrix"),
    ("driver-matrix", "--example", "quad_partition"),
    ("driver-matrix", "--example", "cudarc_partition"),
    ("cuda-green-examples", "--example", "first_program"),
    ("cuda-green-examples", "--example", "protected_latency"),
    ("cuda-green-examples", "--example", "rebalance_under_load"),
    ("cuda-green-examples", "--example", "models_in_a_budget"),
    ("cuda-green-examples", "--example", "shared_device"),
    ("cuda-green-queue", "--example", "pages"),
    ("driver-matrix", "--test", "suite"),
    ("driver-matrix", "--test", "conformance"),
];

pub fn run() -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(crate::root());
    let folder = crate::root().join("target/gpu-bundle");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for (package, kind, name) in TARGETS {
        // Stripped of what only a debugger needs, or the archive would be ten times as large.
        let strip = "profile.release.strip=\"debuginfo\"";
        let features: &[&str] = match name {
            "cuda-green-embed" => &["--features", "server"],
            _ => &[],
        };
        let messages = cmd!(
            shell,
            "cargo build --release --package {package} {kind} {name} {features...} --config {strip} --message-format=json"
        )
        .read()?;
        let executable =
            executable(&messages, name).with_context(|| format!("cargo built no {name}"))?;
        fs::copy(executable, folder.join(name))?;
    }
    let commit = cmd!(shell, "git rev-parse HEAD").read()?;
    let changed = cmd!(shell, "git status --porcelain --untracked-files=no").read()?;
    let commit = if changed.is_empty() {
        commit
    } else {
        format!("{commit} with changes")
    };
    fs::write(folder.join("COMMIT"), commit)?;
    let script = folder.join("run.sh");
    fs::write(&script, include_str!("gpu_bundle.sh"))?;
    cmd!(shell, "chmod +x {script}").run()?;
    fs::write(
        folder.join("situations.sh"),
        include_str!("gpu_situations.sh"),
    )?;
    for script in ["peers_host.py", "peers_memory.py", "peers_embed.py"] {
        let peers = crate::root().join("xtask/peers");
        fs::copy(peers.join(script), folder.join(script))?;
    }
    let archive = crate::root().join("target/gpu-bundle.tar.gz");
    cmd!(shell, "tar -C target -czf {archive} gpu-bundle").run()?;
    let size = fs::metadata(&archive)?.len();
    ensure!(
        size < LIMIT,
        "{} has {size} bytes, more than the {LIMIT} it may have",
        archive.display()
    );
    println!(
        "target/gpu-bundle.tar.gz: {:.1} MiB; on the GPU machine, unpack it and run gpu-bundle/run.sh",
        size as f64 / f64::from(1 << 20)
    );
    Ok(())
}

/// The path of the executable of this name in cargo's messages, one JSON object a line.
fn executable<'a>(messages: &'a str, name: &str) -> Option<&'a Path> {
    let target = format!(r#""name":"{name}""#);
    messages
        .lines()
        .filter(|line| line.contains(r#""reason":"compiler-artifact""#) && line.contains(&target))
        .find_map(|line| line.split_once(r#""executable":""#)?.1.split('"').next())
        .map(Path::new)
}

//! The queue's header, compiled by each compiler that is fetched for the GPUs that it knows, by what uses the header and
//! by a probe of the layout, whose assertions are made of the Rust types.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use super::{HEADER, WITH_HEADER, name_of, nvrtc::Nvrtc, tools};

const PROBE: &str = "cuda-green-queue/src/device/layout_probe.cu";

/// The architectures for which each compiler assembles what it compiled: that of 12.4, then those of [`compilers`], which
/// warn of `sm_70` or lack it.
const ARCHITECTURES: [&[&str]; 3] = [
    &["sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90"],
    &["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"],
    &["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"],
];

/// Returns where the compilers beside that of 12.4 are.
pub fn compilers() -> [PathBuf; 2] {
    let compilers = crate::root().join("target/cuda/compilers");
    [
        compilers.join("12.9/libnvrtc.so.12"),
        compilers.join("13.5/libnvrtc.so.13"),
    ]
}

/// Compiles all, and throws the results away. One more time without the load of 16 bytes, which the oldest compilers
/// lack.
pub fn check() -> Result<()> {
    let [oldest, _] = tools();
    let compilers = [oldest].into_iter().chain(compilers());
    for (compiler, architectures) in compilers.zip(ARCHITECTURES) {
        let nvrtc = Nvrtc::load(&compiler)?;
        refuses_older_gpus(&nvrtc)?;
        for architecture in architectures {
            compile(&nvrtc, architecture, &[])
                .with_context(|| format!("{} for {architecture}", compiler.display()))?;
        }
        if let Some(first) = architectures.first() {
            compile(&nvrtc, first, &["-U__CUDACC_VER_MAJOR__"])?;
        }
    }
    Ok(())
}

/// Compilers of CUDA 12 know GPUs that the header is not for, and compile for one of them by default.
fn refuses_older_gpus(nvrtc: &Nvrtc) -> Result<()> {
    let Err(error) = compile(nvrtc, "compute_52", &[]) else {
        anyhow::bail!("the header is compiled for compute_52");
    };
    let error = format!("{error:#}");
    ensure!(
        error.contains("is for sm_70 and later")
            || error.contains("invalid value for --gpu-architecture"),
        "the header is refused for compute_52 without the reason: {error}"
    );
    Ok(())
}

fn compile(nvrtc: &Nvrtc, architecture: &str, more: &[&str]) -> Result<()> {
    let root = crate::root();
    let folder = root.join(HEADER).parent().map(PathBuf::from);
    let folder = folder.context("the header is in a folder")?;
    let architecture = format!("--gpu-architecture={architecture}");
    let include = format!("--include-path={}", folder.display());
    let mut options = vec!["--std=c++17", &architecture, &include];
    options.extend(more);
    for source in [PROBE].iter().chain(&WITH_HEADER) {
        let text = fs::read_to_string(root.join(source))
            .with_context(|| format!("cannot read {source}"))?;
        nvrtc
            .compile(name_of(source), &text, &options)
            .with_context(|| format!("{source} is refused"))?;
    }
    Ok(())
}

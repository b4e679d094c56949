//! `cargo xtask kernels`: compiles the encoder's kernels and those that use the queue from CUDA C to the committed PTX.
//!
//! NVRTC compiles; ptxas then assembles what came out for each architecture that it is meant for. Both are of CUDA 12.4
//! and come with `cargo xtask fetch`.

mod header;
mod nvrtc;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nvrtc::Nvrtc;
use sha2::{Digest, Sha256};
use xshell::{Shell, cmd};

use crate::{fetch, skipped};

const BERT: &str = "cuda-green-embed/src/kernels/bert.cu";
const ELEMENTS: [&str; 3] = ["f16", "bf16", "f32"];

/// The hand-written loops of the queue's benchmark, and what includes the queue's header. Each is compiled once, to the
/// file of its name.
const LOOPS: &str = "cuda-green-cli/src/commands/bench/queue/raw.cu";
const HEADER: &str = "cuda-green-queue/src/device/cuda_green_queue.cuh";
const WITH_HEADER: [&str; 4] = [
    "cuda-green-cli/src/commands/bench/queue/own.cu",
    "cuda-green-queue/examples/first_task/squares.cu",
    "cuda-green-queue/examples/pages/pages.cu",
    "tests/suite/kernels/queue.cu",
];

/// A file of PTX, and what it is made of. Paths are from the root.
struct Made {
    file: String,
    source: &'static str,
    /// The headers that the source includes, each in a folder that the compiler looks in.
    headers: &'static [&'static str],
    options: Vec<String>,
    architecture: &'static Architecture,
}

/// One architecture of PTX.
struct Architecture {
    /// The compute capability that it is compiled for, as in `compute_80`.
    compute: &'static str,
    /// The version that the compiler writes, and the older one that it is lowered to, so that drivers older than the
    /// compiler load it. ptxas refuses it if it has an instruction that the version lacks.
    lowered: (&'static str, &'static str),
    /// The architectures that ptxas assembles it for.
    assembled: &'static [&'static str],
}

/// Drivers from CUDA 11.4 on read PTX 7.4, and those from CUDA 11.8 on PTX 7.8, the first with `sm_90`.
const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        compute: "80",
        lowered: ("8.4", "7.4"),
        assembled: &["80", "86", "89", "90"],
    },
    Architecture {
        compute: "90",
        lowered: ("8.4", "7.8"),
        assembled: &["90"],
    },
];

/// What is made for all GPUs at once. Acquire and release are there from compute capability 7.0 on.
const OLDEST: Architecture = Architecture {
    compute: "70",
    lowered: ("8.4", "7.4"),
    assembled: &["70", "75", "80", "90"],
};

/// What includes the queue's header, which loads 16 bytes with acquire order: drivers from CUDA 12.4 on read it.
const QUEUE: Architecture = Architecture {
    lowered: ("8.4", "8.4"),
    ..OLDEST
};

/// Returns all files.
fn all() -> Vec<Made> {
    let mut all = Vec::new();
    for element in ELEMENTS {
        for architecture in &ARCHITECTURES {
            all.push(Made {
                file: format!(
                    "cuda-green-embed/src/kernels/bert_{element}_sm{}.ptx",
                    architecture.compute
                ),
                source: BERT,
                headers: &[],
                options: vec![format!("-DELEMENT_{}", element.to_uppercase())],
                architecture,
            });
        }
    }
    let plain = |source: &'static str, headers, architecture| Made {
        file: source.replace(".cu", ".ptx"),
        source,
        headers,
        options: Vec::new(),
        architecture,
    };
    all.push(plain(LOOPS, &[], &OLDEST));
    all.extend(WITH_HEADER.map(|source| plain(source, &[HEADER], &QUEUE)));
    all
}

pub fn run() -> Result<()> {
    fetch::fetch(|place| ["nvrtc", "ptxas"].contains(&place) || place.starts_with("compilers/"))?;
    for (name, ptx) in compile()? {
        let path = crate::root().join(&name);
        fs::write(&path, ptx).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {name}");
    }
    header::check()
}

/// Compares the committed PTX with what the compiler makes of the source, and compiles the queue's header for all GPUs
/// with more compilers. Returns a line if the compiler is missing.
pub fn check() -> Result<Option<String>> {
    let missing = if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        Some("their compiler is fetched for Linux on x86-64 alone")
    } else if !tools()
        .iter()
        .chain(&header::compilers())
        .all(|tool| tool.is_file())
    {
        Some("`cargo xtask fetch` would add their compiler")
    } else {
        None
    };
    if let Some(missing) = missing {
        let line = format!("the compiled kernels against their source: {missing}");
        ensure!(!skipped::matrix_is_required(), "{line}");
        return Ok(Some(line));
    }
    header::check()?;
    for (name, ptx) in compile()? {
        let committed = fs::read_to_string(crate::root().join(&name));
        ensure!(
            committed.is_ok_and(|committed| committed == ptx),
            "{name} is not what the compiler makes of its source; `cargo xtask kernels` writes it anew"
        );
    }
    Ok(None)
}

/// Returns where NVRTC and ptxas are.
fn tools() -> [PathBuf; 2] {
    let cuda = crate::root().join("target/cuda");
    [cuda.join("nvrtc/libnvrtc.so.12"), cuda.join("ptxas/ptxas")]
}

/// Compiles everything; returns the files by name.
fn compile() -> Result<Vec<(String, String)>> {
    let [nvrtc, ptxas] = tools();
    let nvrtc = Nvrtc::load(&nvrtc)?;
    let root = crate::root();
    let make = |made: Made| -> Result<(String, String)> {
        let Made {
            file, architecture, ..
        } = &made;
        let source = fs::read_to_string(root.join(made.source))?;
        let mut options = vec![
            format!("--gpu-architecture=compute_{}", architecture.compute),
            "--std=c++17".to_owned(),
        ];
        options.extend(made.options.iter().cloned());
        let folders = made
            .headers
            .iter()
            .filter_map(|header| root.join(header).parent().map(Path::to_owned));
        options.extend(folders.map(|folder| format!("--include-path={}", folder.display())));
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let ptx = nvrtc
            .compile(name_of(made.source), &source, &options)
            .with_context(|| format!("cannot make {file}"))?;
        let ptx = lowered(&ptx, architecture.lowered)?;
        assemble(&ptxas, &ptx, architecture)?;
        let text = format!("{}\n{ptx}", first_line(&made)?);
        Ok((made.file, text))
    };
    all().into_iter().map(make).collect()
}

/// Returns the last part of a path.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns the first line of a file, which names the source that it was compiled from.
fn first_line(made: &Made) -> Result<String> {
    let mut digest = Sha256::new();
    for path in [made.source].iter().chain(made.headers) {
        let text = fs::read_to_string(crate::root().join(path));
        digest.update(text.with_context(|| format!("cannot read {path}"))?);
    }
    let hash: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let source = name_of(made.source);
    Ok(format!(
        "// Made by `cargo xtask kernels` from {source}, SHA-256 {hash}"
    ))
}

/// Lowers the version, and takes out comments and indentation, which are a seventh of the text.
fn lowered(ptx: &str, (from, to): (&str, &str)) -> Result<String> {
    let line = format!(".version {from}");
    ensure!(
        ptx.lines().any(|other| other == line),
        "the compiler's PTX has no line `{line}`"
    );
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if line.starts_with(".version ") {
            text += &format!(".version {to}\n");
        } else if !line.is_empty() {
            text.extend([line, "\n"]);
        }
    }
    Ok(text)
}

/// Has ptxas assemble the PTX, and throws the result away.
fn assemble(ptxas: &Path, ptx: &str, architecture: &Architecture) -> Result<()> {
    let shell = Shell::new()?;
    let folder = shell.create_temp_dir()?;
    let (input, output) = (folder.path().join("in.ptx"), folder.path().join("out"));
    shell.write_file(&input, ptx)?;
    for sm in architecture.assembled {
        cmd!(
            shell,
            "{ptxas} --warning-as-error --gpu-name sm_{sm} --output-file {output} {input}"
        )
        .quiet()
        .run()
        .with_context(|| format!("ptxas refuses compute_{} for sm_{sm}", architecture.compute))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no compiler: whoever changes the source and not what is made from it learns of it everywhere.
    #[test]
    fn the_committed_ptx_is_of_the_committed_source() {
        for made in all() {
            let ptx = fs::read_to_string(crate::root().join(&made.file)).unwrap();
            let (found, expected) = (ptx.lines().next(), first_line(&made).unwrap());
            assert!(
                found == Some(&expected),
                "{} is of another {}; `cargo xtask kernels` writes it anew",
                made.file,
                made.source
            );
        }
    }

    #[test]
    fn comments_go_and_the_version_is_lowered() {
        let ptx =
            "//\n// By a compiler\n.version 8.4\n.target sm_80\n\n\t// .globl\tf\n\tret; // ends\n";
        let lowered_ptx = lowered(ptx, ("8.4", "7.4")).unwrap();
        assert_eq!(lowered_ptx, ".version 7.4\n.target sm_80\nret;\n");
        assert!(lowered(ptx, ("8.5", "7.4")).is_err());
    }
}

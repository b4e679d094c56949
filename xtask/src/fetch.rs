//! `cargo xtask fetch`: fills `target/cuda` with what the table in `artifacts.rs` names.
//!
//! Each package is downloaded by its registry's ordinary client, checked by hash, and unpacked without
//! being installed. A folder that is already filled from the same package, and is as it was then, is left
//! alone. What cannot be had is named and does not stop the rest, unless `CUDA_GREEN_REQUIRE_MATRIX=1`.

mod apt;
mod client;
mod lock;
mod stamp;
mod unpack;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use stamp::State;
use unpack::{find_driver, hash, unzip};
use xshell::{Shell, cmd};

use crate::{
    artifacts::{ARTIFACTS, Artifact, Source, Take},
    skipped,
};

#[derive(clap::Args)]
pub struct Options {
    /// Fetches only the places under these folders of target/cuda, such as `models` and `texts`.
    folders: Vec<PathBuf>,
}

pub fn run(options: &Options) -> Result<()> {
    let folders = &options.folders;
    let is_wanted = |place: &str| {
        let mut folders = folders.iter();
        folders.len() == 0 || folders.any(|folder| Path::new(place).starts_with(folder))
    };
    let missing = fetch(is_wanted)?;
    if missing.is_empty() {
        println!("target/cuda is complete");
        return Ok(());
    }
    for line in &missing {
        eprintln!("not fetched: {line}");
    }
    ensure!(
        !skipped::matrix_is_required(),
        "CUDA_GREEN_REQUIRE_MATRIX=1, and {} of what the tests need could not be fetched",
        missing.len()
    );
    Ok(())
}

/// Fetches what is not there yet of the wanted places, and returns a line for each place that stays empty.
pub fn fetch(wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let artifacts = ARTIFACTS.iter().copied();
    let artifacts: Vec<_> = artifacts
        .filter(|artifact| wanted(artifact.place))
        .collect();
    fetch_into(crate::root().join("target/cuda"), &artifacts, Shell::new()?)
}

fn fetch_into(cuda: PathBuf, artifacts: &[Artifact], shell: Shell) -> Result<Vec<String>> {
    fs::create_dir_all(&cuda).context("cannot make target/cuda")?;
    let _lock = lock::take(&cuda)?;
    // With the lock, any scratch folder is one that a killed run has left.
    remove_scratch(&cuda)?;
    let mut fetcher = Fetcher {
        shell,
        scratch: cuda.join(SCRATCH),
        suites: apt::suites(artifacts),
        apt: None,
        cuda,
    };
    fs::create_dir_all(&fetcher.scratch).context("cannot write to target/cuda")?;
    let missing = fetcher.all(artifacts);
    // What stays is removed by the next run.
    let _ = fs::remove_dir_all(&fetcher.scratch);
    Ok(missing)
}

/// The folder in which packages are unpacked, beside their places, so that they can be moved there.
const SCRATCH: &str = "scratch";

/// Removes what runs that were killed have left.
fn remove_scratch(cuda: &Path) -> Result<()> {
    for entry in fs::read_dir(cuda)? {
        let entry = entry?;
        let name = entry.file_name();
        // Those of earlier versions have a process's number behind it.
        let is_scratch = name.to_string_lossy().split('-').next() == Some(SCRATCH);
        if is_scratch && entry.file_type()?.is_dir() {
            let path = entry.path();
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

struct Fetcher {
    shell: Shell,
    cuda: PathBuf,
    scratch: PathBuf,
    /// The suites of Debian's packages that are fetched, each with its component.
    suites: Vec<(&'static str, &'static str)>,
    /// The private apt's options, once its lists are there; the error when they could not be had.
    apt: Option<Result<Vec<String>, String>>,
}

impl Fetcher {
    fn all(&mut self, artifacts: &[Artifact]) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        let mut places: Vec<&str> = artifacts.iter().map(|artifact| artifact.place).collect();
        places.dedup();
        for place in places {
            let rows = || artifacts.iter().filter(|artifact| artifact.place == place);
            let mut reasons = Vec::new();
            match self.state(rows()) {
                Ok(State::Filled) => continue,
                Ok(State::Empty) => {}
                Ok(State::Changed(files)) => {
                    let files: Vec<_> = files.iter().map(|file| file.display()).collect();
                    let what = format!("changed since it was unpacked ({})", listed(&files));
                    eprintln!("{place} was {what}");
                    reasons.push(what);
                }
                Err(error) => reasons.push(format!("{error:#}")),
            }
            for artifact in rows() {
                eprintln!(
                    "fetching {place} ({} {})",
                    artifact.package, artifact.version
                );
                match self.fill(artifact) {
                    Ok(()) => {
                        reasons.clear();
                        break;
                    }
                    Err(error) => reasons.push(format!(
                        "{} {}: {error:#}",
                        artifact.package, artifact.version
                    )),
                }
            }
            if !reasons.is_empty() {
                missing.push(format!("{place}: {}", reasons.join("; ")));
            }
        }
        missing
    }

    /// Finds out what is in the place that each of these rows could fill.
    fn state<'a>(&self, rows: impl Iterator<Item = &'a Artifact>) -> Result<State> {
        for artifact in rows {
            let place = self.cuda.join(artifact.place);
            match stamp::state(&place, artifact.sha256)? {
                State::Empty => {}
                state => return Ok(state),
            }
        }
        Ok(State::Empty)
    }

    /// Downloads, checks and unpacks beside the place, and moves it there only when it is whole.
    fn fill(&mut self, artifact: &Artifact) -> Result<()> {
        let download = self.scratch.join("download");
        let unpacked = self.scratch.join("unpacked");
        for folder in [&download, &unpacked] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
            fs::create_dir_all(folder)?;
        }
        let package = match artifact.source {
            Source::Pip => {
                self.pip(artifact, &download)?;
                only_file(&download)?
            }
            Source::Apt { .. } => {
                self.apt(artifact, &download)?;
                only_file(&download)?
            }
            Source::PipList => crate::root().join(artifact.package),
        };
        let got = hash(&package)?;
        ensure!(
            got == artifact.sha256,
            "the package has the hash {got}, the table says {}",
            artifact.sha256
        );
        match artifact.take {
            Take::Headers => unzip(&package, &unpacked, |path| {
                path.parent()
                    .is_some_and(|folder| folder.ends_with("include"))
                    && (path.ends_with("cuda.h") || path.ends_with("cudaTypedefs.h"))
            })?,
            Take::Libclang => unzip(&package, &unpacked, |path| path.ends_with("libclang.so"))?,
            Take::Nvrtc => unzip(&package, &unpacked, |path| {
                let name = path.file_name().and_then(|name| name.to_str());
                ["libnvrtc.so.", "libnvrtc-builtins.so."]
                    .iter()
                    .any(|start| name.is_some_and(|name| name.starts_with(start)))
            })?,
            Take::Ptxas => unzip(&package, &unpacked, |path| path.ends_with("bin/ptxas"))?,
            Take::Driver => {
                let tree = self.debian_tree(&package)?;
                let library = find_driver(&tree)?;
                let library = library.context("the package holds no libcuda.so.<version>")?;
                fs::copy(&library, unpacked.join("libcuda.so.1"))?;
            }
            Take::Installed => self.install(&package, &unpacked)?,
            Take::Files(paths) => {
                let tree = self.debian_tree(&package)?;
                for path in paths {
                    let path = tree.join(path);
                    let name = path.file_name().context("a file has a name")?;
                    fs::copy(&path, unpacked.join(name))
                        .with_context(|| format!("the package holds no {}", path.display()))?;
                }
            }
            Take::WordNet => {
                let folder = self.debian_tree(&package)?.join("usr/share/wordnet");
                for part in ["noun", "verb", "adj", "adv"] {
                    let name = format!("data.{part}");
                    fs::copy(folder.join(&name), unpacked.join(&name))
                        .with_context(|| format!("the package holds no {name}"))?;
                }
            }
            Take::Package => zip::ZipArchive::new(fs::File::open(&package)?)?
                .extract(&unpacked)
                .context("the wheel cannot be unpacked")?,
        }
        stamp::write(&unpacked, artifact.sha256)?;
        self.put(&unpacked, &self.cuda.join(artifact.place))
            .context("cannot move the unpacked files into place")
    }

    /// Moves a folder into its place, and what was there aside.
    fn put(&self, unpacked: &Path, place: &Path) -> Result<()> {
        let before = self.scratch.join("before");
        if before.exists() {
            fs::remove_dir_all(&before)?;
        }
        if place.exists() {
            fs::rename(place, &before)?;
        }
        fs::create_dir_all(place.parent().unwrap_or(&self.cuda))?;
        Ok(fs::rename(unpacked, place)?)
    }

    fn pip(&self, artifact: &Artifact, to: &Path) -> Result<()> {
        // A version can have several wheels for one platform: with the hash in the requirement, pip
        // takes the very one of the table, wherever this runs.
        let Artifact {
            package,
            version,
            sha256,
            ..
        } = artifact;
        let requirement = self.scratch.join("requirement.txt");
        fs::write(
            &requirement,
            format!("{package}=={version} --hash=sha256:{sha256}\n"),
        )?;
        let pip = cmd!(
            self.shell,
            "python3 -m pip download --quiet --disable-pip-version-check --no-deps
             --only-binary=:all: --platform=manylinux2014_x86_64 --platform=manylinux2010_x86_64
             --platform=manylinux_2_28_x86_64
             --dest {to} --requirement {requirement}"
        );
        client::run(pip, "python3 with pip is needed")
    }

    /// Installs the wheels of a list into a folder. Their hashes are in the list.
    fn install(&self, list: &Path, to: &Path) -> Result<()> {
        let pip = cmd!(
            self.shell,
            "python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes
             --only-binary=:all: --no-compile --root-user-action=ignore --target {to} --requirement {list}"
        );
        client::run(pip, "python3 with pip is needed")
    }

    /// Unpacks a package of Debian's into a scratch folder, and returns it.
    fn debian_tree(&self, package: &Path) -> Result<PathBuf> {
        let tree = self.scratch.join("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        let dpkg = cmd!(self.shell, "dpkg -x {package} {tree}");
        client::run(dpkg, "dpkg is needed to unpack Debian's packages")?;
        Ok(tree)
    }
}

/// Names the first of some, and how many more there are.
fn listed(files: &[impl std::fmt::Display]) -> String {
    match files {
        [] => String::new(),
        [one] => one.to_string(),
        [first, more @ ..] => format!("{first} and {} more", more.len()),
    }
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let files: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    match files.as_slice() {
        [file] => Ok(file.path()),
        files => bail!("the client downloaded {} files instead of one", files.len()),
    }
}

#[cfg(test)]
mod tests;

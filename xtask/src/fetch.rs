//! `cargo xtask fetch`: fills `target/cuda` with what the table in `artifacts.rs` names.
//!
//! Each package is downloaded by its registry's ordinary client, checked by hash, and unpacked without
//! being installed. A folder that is already filled from the same package is left alone. What cannot
//! be had is named and does not stop the rest, unless `CUDA_GREEN_REQUIRE_MATRIX=1`.

mod apt;
mod unpack;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use unpack::{find_driver, hash, unzip};
use xshell::{Shell, cmd};

use crate::{
    artifacts::{ARTIFACTS, Artifact, Source, Take},
    skipped,
};

/// The file in each filled folder that tells which package it came from.
const STAMP: &str = ".sha256";

pub fn run() -> Result<()> {
    let missing = fetch()?;
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

/// Fetches all that is not there yet, and returns a line for each place that stays empty.
pub fn fetch() -> Result<Vec<String>> {
    let cuda = crate::root().join("target/cuda");
    let mut fetcher = Fetcher {
        shell: Shell::new()?,
        scratch: cuda.join(format!("scratch-{}", std::process::id())),
        apt: None,
        cuda,
    };
    fs::create_dir_all(&fetcher.scratch).context("cannot make target/cuda")?;
    let missing = fetcher.all();
    // Only this run's own scratch folder, so a failure to remove it does no harm.
    let _ = fs::remove_dir_all(&fetcher.scratch);
    Ok(missing)
}

struct Fetcher {
    shell: Shell,
    cuda: PathBuf,
    scratch: PathBuf,
    /// The private apt's options, once its lists are there; the error when they could not be had.
    apt: Option<Result<Vec<String>, String>>,
}

impl Fetcher {
    fn all(&mut self) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        let mut places: Vec<&str> = ARTIFACTS.iter().map(|artifact| artifact.place).collect();
        places.dedup();
        for place in places {
            let rows = || ARTIFACTS.iter().filter(|artifact| artifact.place == place);
            if rows().any(|artifact| self.is_there(artifact)) {
                continue;
            }
            let mut reasons = Vec::new();
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

    fn is_there(&self, artifact: &Artifact) -> bool {
        fs::read_to_string(self.cuda.join(artifact.place).join(STAMP))
            .is_ok_and(|stamp| stamp == artifact.sha256)
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
        match artifact.source {
            Source::Pip => self.pip(artifact, &download)?,
            Source::Apt { .. } => self.apt(artifact, &download)?,
        }
        let package = only_file(&download)?;
        let got = hash(&package)?;
        ensure!(
            got == artifact.sha256,
            "the download has the hash {got}, the table says {}",
            artifact.sha256
        );
        match artifact.take {
            Take::Headers => unzip(&package, &unpacked, |path| {
                path.parent()
                    .is_some_and(|folder| folder.ends_with("include"))
                    && (path.ends_with("cuda.h") || path.ends_with("cudaTypedefs.h"))
            })?,
            Take::Libclang => unzip(&package, &unpacked, |path| path.ends_with("libclang.so"))?,
            Take::Driver => self.take_driver(&package, &unpacked)?,
            Take::Package => zip::ZipArchive::new(fs::File::open(&package)?)?
                .extract(&unpacked)
                .context("the wheel cannot be unpacked")?,
        }
        fs::write(unpacked.join(STAMP), artifact.sha256)?;
        let place = self.cuda.join(artifact.place);
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::create_dir_all(place.parent().unwrap_or(&self.cuda))?;
        fs::rename(&unpacked, &place).context("cannot move the unpacked files into place")
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
        cmd!(
            self.shell,
            "python3 -m pip download --quiet --disable-pip-version-check --no-deps
             --only-binary=:all: --platform=manylinux2014_x86_64 --platform=manylinux2010_x86_64
             --platform=manylinux_2_28_x86_64
             --dest {to} --requirement {requirement}"
        )
        .quiet()
        .run()
        .context("python3 with pip is needed")
    }

    fn take_driver(&self, package: &Path, to: &Path) -> Result<()> {
        let tree = self.scratch.join("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        cmd!(self.shell, "dpkg -x {package} {tree}")
            .quiet()
            .run()
            .context("dpkg is needed to unpack a driver")?;
        let library = find_driver(&tree)?.context("the package holds no libcuda.so.<version>")?;
        fs::copy(&library, to.join("libcuda.so.1"))?;
        fs::remove_dir_all(&tree)?;
        Ok(())
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
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_whole_hash_and_rows_of_one_place_stand_together() {
        let mut places: Vec<_> = ARTIFACTS.iter().map(|artifact| artifact.place).collect();
        places.dedup();
        let once = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), once);
        for artifact in ARTIFACTS {
            assert_eq!(artifact.sha256.len(), 64, "{}", artifact.place);
        }
    }
}

//! `cargo xtask fetch`: fills `target/cuda` with what the table in `artifacts.rs` names.
//!
//! Each package is downloaded by its registry's ordinary client, checked by hash, and unpacked without
//! being installed. A folder that is already filled from the same package is left alone. What cannot
//! be had is named and does not stop the rest, unless `CUDA_GREEN_REQUIRE_MATRIX=1`.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
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

    fn apt(&mut self, artifact: &Artifact, to: &Path) -> Result<()> {
        let options = match &self.apt {
            Some(answer) => answer.clone(),
            None => {
                let answer = self.apt_lists().map_err(|error| format!("{error:#}"));
                self.apt.insert(answer).clone()
            }
        };
        let options = options.map_err(anyhow::Error::msg)?;
        let Artifact {
            package, version, ..
        } = artifact;
        let _in_folder = self.shell.push_dir(to);
        cmd!(
            self.shell,
            "apt-get {options...} --quiet=2 download {package}={version}"
        )
        .quiet()
        .run()
        .context("apt-get could not download it")
    }

    /// Fetches the package lists of `non-free` into a folder of our own. The machine's apt sources stay
    /// as they are, and no right of root's is needed.
    fn apt_lists(&self) -> Result<Vec<String>> {
        let apt = self.cuda.join("apt");
        let [parts, lists, cache] = ["parts", "lists", "cache"].map(|name| apt.join(name));
        for folder in [
            parts.clone(),
            lists.join("partial"),
            cache.join("archives/partial"),
        ] {
            fs::create_dir_all(folder)?;
        }
        fs::write(parts.join("nvidia.sources"), self.apt_sources()?)?;
        // The machine's own hooks tidy its own caches, which is none of our business.
        let configuration = apt.join("apt.conf");
        fs::write(
            &configuration,
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n",
        )?;
        let option = |name: &str, value: &Path| format!("-o{name}={}", value.display());
        let options = vec![
            format!("-c={}", configuration.display()),
            option("Dir::Etc::SourceList", Path::new("/dev/null")),
            option("Dir::Etc::SourceParts", &parts),
            option("Dir::State::Lists", &lists),
            option("Dir::Cache", &cache),
            "-oAcquire::Languages=none".to_owned(),
            // Else, as root, apt becomes a user who may not read this folder.
            "-oAPT::Sandbox::User=root".to_owned(),
        ];
        // A suite that the mirror lacks is an error here and must not cost the others: what could not
        // be had shows when its package is downloaded.
        let given = &options;
        if let Err(error) = cmd!(self.shell, "apt-get {given...} --quiet=2 update")
            .quiet()
            .run()
        {
            eprintln!("{error}");
        }
        Ok(options)
    }

    /// The text of the private sources file: the suites of the table, from the machine's own mirror.
    fn apt_sources(&self) -> Result<String> {
        let uris = cmd!(self.shell, "apt-get update --print-uris")
            .quiet()
            .ignore_stderr()
            .read()
            .context("apt-get is needed to fetch real drivers")?;
        let mut suites: Vec<&str> = ARTIFACTS
            .iter()
            .filter_map(|artifact| match artifact.source {
                Source::Apt { suite } => Some(suite),
                Source::Pip => None,
            })
            .collect();
        suites.sort_unstable();
        suites.dedup();
        let mut text = String::new();
        for suite in suites {
            let Some(mirror) = mirror(&uris, suite.ends_with("-security")) else {
                eprintln!("the apt sources of this machine name no Debian mirror for {suite}");
                continue;
            };
            text += &format!(
                "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: non-free\nArchitectures: amd64\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
            );
        }
        ensure!(
            !text.is_empty(),
            "real drivers come from Debian, and this machine's apt sources name no mirror of it"
        );
        Ok(text)
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

/// The base address of the Debian mirror in apt's own list of what it would download.
fn mirror(uris: &str, security: bool) -> Option<&str> {
    uris.lines().find_map(|line| {
        let (base, rest) = line.strip_prefix('\'')?.split_once("/dists/")?;
        let suite = rest.split('/').next()?;
        // Other repositories live beside Debian's, so the suite must be one of Debian's own.
        let debian = [
            "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable",
        ];
        let (name, is_security) = match suite.strip_suffix("-security") {
            Some(name) => (name, true),
            None => (suite, false),
        };
        (debian.contains(&name) && is_security == security).then_some(base)
    })
}

/// Unpacks the wanted files of a wheel, without their folders.
fn unzip(wheel: &Path, to: &Path, wanted: impl Fn(&Path) -> bool) -> Result<()> {
    let mut archive = zip::ZipArchive::new(fs::File::open(wheel)?)?;
    let mut count = 0;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(path) = entry.enclosed_name() else {
            bail!("the wheel holds a file whose path leaves it");
        };
        if let (true, Some(name)) = (entry.is_file() && wanted(&path), path.file_name()) {
            std::io::copy(&mut entry, &mut fs::File::create(to.join(name))?)?;
            count += 1;
        }
    }
    ensure!(
        count > 0,
        "the wheel holds nothing of what it is fetched for"
    );
    Ok(())
}

/// The library file itself, not the links to it.
fn find_driver(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Some(found) = find_driver(&entry.path())? {
                return Ok(Some(found));
            }
        } else if kind.is_file()
            && entry
                .file_name()
                .to_string_lossy()
                .starts_with("libcuda.so.")
        {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let files: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    match files.as_slice() {
        [file] => Ok(file.path()),
        files => bail!("the client downloaded {} files instead of one", files.len()),
    }
}

fn hash(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let mut sha = Sha256::new();
    let mut buffer = [0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => sha.update(&buffer[..n]),
        }
    }
    Ok(sha
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_taken_from_apt_and_only_if_it_is_debians() {
        let uris = "'https://other.example/apt/dists/tool-bookworm/InRelease' x 0 \n\
                    'http://mirror.example/debian-security/dists/bookworm-security/InRelease' x 0 \n\
                    'http://mirror.example/debian/dists/bookworm-updates/InRelease' x 0 \n\
                    'http://mirror.example/debian/dists/bookworm/InRelease' x 0 \n";
        assert_eq!(mirror(uris, false), Some("http://mirror.example/debian"));
        assert_eq!(
            mirror(uris, true),
            Some("http://mirror.example/debian-security")
        );
        assert_eq!(mirror("E: nothing", false), None);
    }

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

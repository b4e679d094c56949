//! Packages of Debian's, by an apt with sources and lists of its own.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use xshell::cmd;

use super::{Fetcher, client};
use crate::artifacts::{Artifact, Source};

const NEEDED: &str = "apt-get is needed to fetch Debian's packages: real drivers, WordNet, wrk";

impl Fetcher {
    pub(super) fn apt(&mut self, artifact: &Artifact, to: &Path) -> Result<()> {
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
        let download = cmd!(
            self.shell,
            "apt-get {options...} --quiet=2 download {package}={version}"
        );
        client::run(download, NEEDED)
    }

    /// Fetches the package lists of the table's suites into a folder of our own. The machine's apt sources stay
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
        let update = cmd!(self.shell, "apt-get {given...} --quiet=2 update");
        if let Err(error) = client::run(update, NEEDED) {
            eprintln!("{error:#}");
        }
        Ok(options)
    }

    /// The text of the private sources file: the suites of the table, from the machine's own mirror.
    fn apt_sources(&self) -> Result<String> {
        let uris = cmd!(self.shell, "apt-get update --print-uris")
            .quiet()
            .ignore_stderr()
            .read()
            .context(NEEDED)?;
        let mut text = String::new();
        for (suite, component) in &self.suites {
            let Some(mirror) = mirror(&uris, suite.ends_with("-security")) else {
                eprintln!("the apt sources of this machine name no Debian mirror for {suite}");
                continue;
            };
            text += &format!(
                "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: {component}\nArchitectures: amd64\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
            );
        }
        ensure!(
            !text.is_empty(),
            "real drivers and WordNet come from Debian, and this machine's apt sources name no mirror of it"
        );
        Ok(text)
    }
}

/// Returns the suites of some packages, and the component of each, once.
pub(super) fn suites(artifacts: &[Artifact]) -> Vec<(&'static str, &'static str)> {
    let suites = artifacts
        .iter()
        .filter_map(|artifact| match artifact.source {
            Source::Apt { suite, component } => Some((suite, component)),
            Source::Pip | Source::PipList => None,
        });
    let mut suites: Vec<_> = suites.collect();
    suites.sort_unstable();
    suites.dedup();
    suites
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
}

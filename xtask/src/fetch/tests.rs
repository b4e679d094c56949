//! Fetching from a made-up registry: `python3` is a script that copies a wheel.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{io::Write, sync::Barrier};

use tempfile::TempDir;

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

/// A folder to fetch into, and a registry that has what it is asked for until it is taken off the network.
struct Registry {
    folder: TempDir,
    artifacts: Vec<Artifact>,
}

/// The folders that are searched for clients.
const SEARCH_PATH: &str = "PATH";

/// Notes that it was asked, takes its time, and copies the wheel of the package that the requirement names.
const PYTHON: &str = r#"#!/bin/sh
root=$(dirname "$0")
while [ $# -gt 1 ]; do
    case $1 in
    --dest) to=$2 ;;
    --requirement) package=$(cut -d= -f1 "$2") ;;
    esac
    shift
done
echo "$package" >>"$root/asked"
sleep 0.05
if [ -e "$root/unplugged" ]; then
    echo "WARNING: Retrying after connection broken by 'Network is unreachable'" >&2
    echo "ERROR: No matching distribution found for $package" >&2
    exit 1
fi
cp "$root/$package.whl" "$to/"
"#;

impl Registry {
    fn new(packages: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python3");
        fs::write(&python, PYTHON).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let artifacts = packages.iter().map(|package| {
            let wheel = folder.path().join(format!("{package}.whl"));
            let mut archive = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
            let options = zip::write::SimpleFileOptions::default();
            archive.start_file("module/a.py", options).unwrap();
            archive.write_all(package.as_bytes()).unwrap();
            archive.finish().unwrap();
            Artifact {
                place: package,
                take: Take::Package,
                source: Source::Pip,
                package,
                version: "1.0",
                sha256: hash(&wheel).unwrap().leak(),
            }
        });
        let artifacts = artifacts.collect();
        Self { folder, artifacts }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn fetch(&self) -> Vec<String> {
        let shell = Shell::new().unwrap();
        let own = self.folder.path().display();
        shell.set_var(SEARCH_PATH, format!("{own}:/usr/bin:/bin"));
        fetch_into(self.path("cuda"), &self.artifacts, shell).unwrap()
    }

    /// Returns the requests to the registry since the last call.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.path("asked"));
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
#[cfg(unix)]
fn two_fetches_at_once_both_end_with_all_and_fetch_it_once() {
    let registry = Registry::new(&["one", "two", "three"]);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                assert_eq!(registry.fetch(), [""; 0]);
            });
        }
    });
    assert_eq!(registry.asked(), ["one", "two", "three"]);
    for package in ["one", "two", "three"] {
        let file = registry.path("cuda").join(package).join("module/a.py");
        assert_eq!(fs::read_to_string(file).unwrap(), package);
    }
}

#[test]
#[cfg(unix)]
fn what_a_killed_run_has_left_is_removed() {
    let registry = Registry::new(&["one"]);
    for left in ["scratch", "scratch-4711"] {
        let left = registry.path("cuda").join(left).join("download");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("half.whl"), "half").unwrap();
    }
    assert_eq!(registry.fetch(), [""; 0]);
    let there = fs::read_dir(registry.path("cuda")).unwrap();
    let mut there: Vec<_> = there.map(|entry| entry.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, [".lock", "one"]);
}

#[test]
#[cfg(unix)]
fn a_file_that_was_changed_is_noticed_and_fetched_anew() {
    let registry = Registry::new(&["one", "two"]);
    assert_eq!(registry.fetch(), [""; 0]);
    assert_eq!(registry.asked(), ["one", "two"]);
    assert_eq!(registry.fetch(), [""; 0]);
    assert_eq!(registry.asked(), [""; 0], "all is there");

    let file = registry.path("cuda/two/module/a.py");
    fs::write(&file, "changed").unwrap();
    assert_eq!(registry.fetch(), [""; 0]);
    assert_eq!(registry.asked(), ["two"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");

    // Without a network it stays, but is told.
    fs::write(&file, "changed").unwrap();
    fs::write(registry.path("unplugged"), "").unwrap();
    let missing = registry.fetch();
    assert_eq!(missing.len(), 1);
    let told = "two: changed since it was unpacked (module/a.py); two 1.0: ";
    assert!(missing[0].starts_with(told), "{missing:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "changed");
}

#[test]
#[cfg(unix)]
fn a_network_that_is_not_there_is_told_as_pip_tells_it() {
    let registry = Registry::new(&["one"]);
    fs::write(registry.path("unplugged"), "").unwrap();
    let missing = registry.fetch();
    assert_eq!(
        missing,
        [
            "one: one 1.0: python3 failed: WARNING: Retrying after connection broken by 'Network is unreachable'; \
          ERROR: No matching distribution found for one"
        ]
    );
}

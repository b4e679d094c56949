//! The note of what fills a folder: the package's hash, and that of each file, so that a file that was changed
//! since is noticed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::unpack::hash;

/// The file in each filled folder. Its first line is the package's hash, and each further one a file's hash and
/// path.
const STAMP: &str = ".sha256";
/// Folders that Python makes where it imports from.
const CACHE: &str = "__pycache__";

/// The contents of a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All of the package, as it was unpacked.
    Filled,
    /// Nothing, or what another package had.
    Empty,
    /// The package, but for these files, which are others now, or gone, or new.
    Changed(Vec<PathBuf>),
}

/// Notes what is in a folder that was filled from this package.
pub(super) fn write(folder: &Path, package: &str) -> Result<()> {
    let mut text = package.to_owned();
    for (path, hash) in hashes(folder)? {
        let path = path.to_str().context("a file's name is no text")?;
        text += &format!("\n{hash}  {path}");
    }
    Ok(fs::write(folder.join(STAMP), text)?)
}

/// Compares what is in a folder with what was noted of it.
pub(super) fn state(folder: &Path, package: &str) -> Result<State> {
    let text = match fs::read_to_string(folder.join(STAMP)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(State::Empty),
        Err(error) => return Err(error.into()),
    };
    let mut lines = text.lines();
    if lines.next() != Some(package) {
        return Ok(State::Empty);
    }
    let noted = lines.filter_map(|line| line.split_once("  "));
    let mut noted: BTreeMap<_, _> = noted
        .map(|(hash, path)| (PathBuf::from(path), hash.to_owned()))
        .collect();
    if noted.is_empty() {
        // From before files were noted: what is there is taken as it is, and noted from now on.
        write(folder, package)?;
        return Ok(State::Filled);
    }
    let mut changed = Vec::new();
    for (path, hash) in hashes(folder)? {
        if noted.remove(&path) != Some(hash) {
            changed.push(path);
        }
    }
    changed.extend(noted.into_keys());
    Ok(if changed.is_empty() {
        State::Filled
    } else {
        State::Changed(changed)
    })
}

/// Hashes each file within, by its path from the folder.
fn hashes(folder: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(within) = folders.pop() {
        for entry in fs::read_dir(&within)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            if kind.is_dir() && path.file_name() != Some(CACHE.as_ref()) {
                folders.push(path);
            } else if !kind.is_dir() {
                let name = path.strip_prefix(folder)?.to_owned();
                if name != Path::new(STAMP) {
                    found.insert(name, hash(&path)?);
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_since_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let state = || state(folder.path(), "abc").unwrap();
        assert_eq!(state(), State::Empty);
        fs::create_dir_all(path("in/it")).unwrap();
        fs::write(path("in/it/a b.h"), "one").unwrap();
        fs::write(path("c.h"), "two").unwrap();
        assert_eq!(state(), State::Empty);
        write(folder.path(), "abc").unwrap();
        assert_eq!(state(), State::Filled);
        fs::create_dir_all(path("in/__pycache__")).unwrap();
        fs::write(path("in/__pycache__/a.pyc"), "made by Python").unwrap();
        assert_eq!(state(), State::Filled);
        assert_eq!(super::state(folder.path(), "def").unwrap(), State::Empty);

        fs::write(path("in/it/a b.h"), "oNe").unwrap();
        fs::remove_file(path("c.h")).unwrap();
        fs::write(path("in/new.h"), "").unwrap();
        let mut changed = match state() {
            State::Changed(changed) => changed,
            other => panic!("{other:?}"),
        };
        changed.sort();
        assert_eq!(
            changed,
            ["c.h", "in/it/a b.h", "in/new.h"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_folder_from_before_files_were_noted_is_taken_as_it_is_and_noted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(STAMP), "abc").unwrap();
        fs::write(folder.path().join("cuda.h"), "one").unwrap();
        let state = || state(folder.path(), "abc").unwrap();
        assert_eq!(state(), State::Filled);
        fs::write(folder.path().join("cuda.h"), "two").unwrap();
        assert_eq!(state(), State::Changed(vec!["cuda.h".into()]));
    }
}

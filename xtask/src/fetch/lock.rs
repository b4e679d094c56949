//! One fetch at a time: two at once would share a scratch folder and apt's lists, and lose what the other has.

use std::{fs::File, path::Path};

use anyhow::{Context, Result};

/// The right to work in a folder, until it is dropped. The system takes it back from a process that ends, however
/// that ends.
pub(super) struct Lock {
    _file: File,
}

/// Waits for the right to work in a folder, and says so where there is something to wait for.
pub(super) fn take(folder: &Path) -> Result<Lock> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    wait(&file, folder).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(Lock { _file: file })
}

#[cfg(unix)]
fn wait(file: &File, folder: &Path) -> Result<()> {
    use rustix::{
        fs::{FlockOperation, flock},
        io::Errno,
    };
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {}
        answer => return Ok(answer?),
    }
    eprintln!(
        "waiting for another fetch, which works in {}",
        folder.display()
    );
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            answer => return Ok(answer?),
        }
    }
}

/// The files are for Linux; elsewhere only those that pip has can be fetched.
#[cfg(not(unix))]
fn wait(_: &File, _: &Path) -> Result<()> {
    Ok(())
}

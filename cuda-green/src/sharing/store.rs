//! The file of the plan: read whole, and replaced whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
};

use super::{
    agreed_plan::AgreedPlan,
    folder::{Folder, distrust_file},
    plan_text,
    steps::{SharingStep, reached},
};
use crate::sharing_error::SharingError;

/// Reads a plan, if there is one.
///
/// # Errors
/// [`SharingError::File`] for whatever this version has not written.
pub(super) fn read(folder: &Folder, name: &str) -> Result<Option<AgreedPlan>, SharingError> {
    let bad = |problem: String| SharingError::File {
        path: folder.shown(name),
        problem,
    };
    let failed = |error| SharingError::Io {
        what: "reading",
        path: folder.shown(name),
        error,
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(folder.within(name));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(bad("it is a symbolic link".to_owned()));
        }
        Err(error) => return Err(failed(error)),
    };
    if let Some(problem) = distrust_file(&file.metadata().map_err(failed)?) {
        return Err(bad(problem));
    }
    let mut bytes = Vec::new();
    // One byte more than any plan has, so that a longer file is seen to be one.
    let mut start = file.take(plan_text::LONGEST + 1);
    start.read_to_end(&mut bytes).map_err(failed)?;
    let plan = plan_text::read(&bytes).map_err(|reason| bad(reason.to_owned()))?;
    Ok(Some(plan))
}

/// Replaces the plan. The caller holds the lock of changes, so no one else writes the file beside it.
///
/// # Errors
/// [`SharingError::Io`], for example where the disk is full. The plan is as it was then.
pub(super) fn replace(folder: &Folder, name: &str, plan: &AgreedPlan) -> Result<(), SharingError> {
    let steps = [SharingStep::PlanWritten, SharingStep::PlanReplaced];
    replace_by(folder, name, plan, steps, |file, bytes| {
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    folder.sync().map_err(|error| SharingError::Io {
        what: "writing",
        path: folder.shown(name),
        error,
    })
}

/// Writes the plan that is to come beside the one in force, where all processes see it; a disk may take it later, and
/// long, so [`keep`] is for that. The caller holds the lock of changes.
///
/// # Errors
/// As [`replace`].
pub(super) fn announce(folder: &Folder, name: &str, plan: &AgreedPlan) -> Result<(), SharingError> {
    let steps = [SharingStep::NextWritten, SharingStep::Announced];
    replace_by(folder, name, plan, steps, |file, bytes| {
        file.write_all(bytes)
    })
}

/// Puts the plan that is to come into force. The caller holds the lock of changes.
///
/// # Errors
/// [`SharingError::Io`]. The old plan is in force then.
pub(super) fn put_in_force(folder: &Folder, next: &str, name: &str) -> Result<(), SharingError> {
    let failed = |error| SharingError::Io {
        what: "replacing",
        path: folder.shown(name),
        error,
    };
    fs::rename(folder.within(next), folder.within(name)).map_err(failed)?;
    reached(SharingStep::InForce);
    Ok(())
}

/// Removes the plan that is to come, if there is one. The caller holds the lock of changes.
///
/// # Errors
/// [`SharingError::Io`].
pub(super) fn withdraw(folder: &Folder, next: &str) -> Result<(), SharingError> {
    let failed = |error| SharingError::Io {
        what: "removing",
        path: folder.shown(next),
        error,
    };
    match fs::remove_file(folder.within(next)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(()) => {
            reached(SharingStep::Withdrawn);
            Ok(())
        }
    }
}

/// Waits until the disk has the plan. Only a plan of an earlier start of the system could be lost before, which is good
/// for nothing; but its file would be damaged.
pub(super) fn keep(folder: &Folder, name: &str) -> io::Result<()> {
    File::open(folder.within(name))?.sync_all()?;
    folder.sync()
}

/// Replaces the plan by what a writer writes, unless that fails.
fn replace_by(
    folder: &Folder,
    name: &str,
    plan: &AgreedPlan,
    [written, replaced]: [SharingStep; 2],
    write: impl FnOnce(&mut File, &[u8]) -> io::Result<()>,
) -> Result<(), SharingError> {
    let failed = |error| SharingError::Io {
        what: "writing",
        path: folder.shown(name),
        error,
    };
    let beside = folder.within(&format!("{name}.new"));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&beside)
        .and_then(|mut file| write(&mut file, plan.to_text().as_bytes()));
    if let Err(error) = made {
        let _ = fs::remove_file(&beside);
        return Err(failed(error));
    }
    reached(written);
    fs::rename(&beside, folder.within(name)).map_err(failed)?;
    reached(replaced);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::{path::PathBuf, process};

    use super::*;
    use crate::sharing::plan_text::tests::example;

    /// Makes an empty folder for a test.
    pub(in crate::sharing) fn temporary(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cuda-green-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    #[cfg_attr(miri, ignore)] // opens folders
    fn a_plan_is_replaced_whole_or_not_at_all() {
        let path = temporary("store");
        let folder = Folder::open(&path.join("shared")).unwrap();
        assert!(read(&folder, "plan").unwrap().is_none());
        let first = example();
        replace(&folder, "plan", &first).unwrap();
        assert_eq!(read(&folder, "plan").unwrap().as_ref(), Some(&first));

        let second = AgreedPlan {
            generation: first.generation + 1,
            ..first.clone()
        };
        // A disk that is full at every byte of the text.
        let length = second.to_text().len();
        for room in 0..length {
            let steps = [SharingStep::PlanWritten, SharingStep::PlanReplaced];
            let full = replace_by(&folder, "plan", &second, steps, |file, bytes| {
                file.write_all(&bytes[..room])?;
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            });
            assert!(matches!(full, Err(SharingError::Io { .. })));
            assert_eq!(read(&folder, "plan").unwrap().as_ref(), Some(&first));
            assert!(!folder.within("plan.new").exists());
        }
        // What a killed process left beside it is in no one's way.
        fs::write(folder.within("plan.new"), "half").unwrap();
        replace(&folder, "plan", &second).unwrap();
        assert_eq!(read(&folder, "plan").unwrap().as_ref(), Some(&second));
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore)] // opens folders
    fn whatever_else_lies_there_is_refused_with_what_to_do() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let path = temporary("refused");
        let folder = Folder::open(&path.join("shared")).unwrap();
        let text = example().to_text();
        let plan = folder.within("plan");
        let problem = |of: &str| match read(&folder, "plan") {
            Err(error @ SharingError::File { .. }) => {
                let words = error.to_string();
                assert!(
                    words.contains(of) && words.contains("then remove it"),
                    "{words}"
                );
            }
            other => panic!("{of}: {other:?}"),
        };
        fs::write(&plan, &text[..text.len() / 2]).unwrap();
        problem("damaged");
        fs::write(&plan, text.replace("plan 1", "plan 0")).unwrap();
        problem("another version");
        fs::write(&plan, vec![b'x'; 1 << 20]).unwrap();
        problem("longer than any plan");
        fs::write(&plan, &text).unwrap();
        fs::set_permissions(&plan, fs::Permissions::from_mode(0o666)).unwrap();
        problem("others than its owner can write it (mode 666)");
        fs::remove_file(&plan).unwrap();
        symlink("/etc/passwd", &plan).unwrap();
        problem("symbolic link");
        fs::remove_file(&plan).unwrap();
        fs::create_dir(&plan).unwrap();
        problem("no ordinary file");
        fs::remove_dir_all(&path).unwrap();
    }
}

//! The folder of plans and claims: where it is, and whether it can be trusted.

use std::{
    env,
    ffi::OsString,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use super::mps;
use crate::sharing_error::{FolderProblem, SharingError};

const VARIABLE: &str = "CUDA_GREEN_SHARED_DIR";

/// File systems whose locks are another machine's, or nobody's (statfs(2), linux/magic.h).
const NOT_LOCAL: [(u32, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x7461_636f, "OCFS2"),
];

/// A folder that only its owner can write, held open.
#[derive(Debug)]
pub(super) struct Folder {
    file: File,
    path: PathBuf,
}

/// Returns the folder's path: that which the variable names, else beside the pipes of the MPS server, else the user's.
pub(super) fn default_path(under_mps: bool) -> Result<PathBuf, SharingError> {
    if let Some(named) = env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    if under_mps {
        // One folder has one name, whatever links lead to it.
        let pipes = mps::pipes();
        let pipes = fs::canonicalize(&pipes).map_err(|error| SharingError::Io {
            what: "finding the MPS server's pipes in",
            path: pipes,
            error,
        })?;
        let Some(name) = pipes.file_name() else {
            return Err(SharingError::NoFolder {
                reason: format!(
                    "{} is no folder that another can be beside; name one with {VARIABLE}",
                    pipes.display()
                ),
            });
        };
        let mut name = OsString::from(name);
        name.push(".cuda-green");
        return Ok(pipes.with_file_name(name));
    }
    let run = PathBuf::from(format!("/run/user/{}", user()));
    if !run.is_dir() {
        return Err(SharingError::NoFolder {
            reason: format!(
                "{} is not there; name a folder that only this user can write with {VARIABLE}",
                run.display()
            ),
        });
    }
    Ok(run.join("cuda-green"))
}

/// Returns the paths where a plan may be: that which the variable names, else beside the pipes of the MPS server and
/// the user's, as far as they can be found.
pub(super) fn existing_paths() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for under_mps in [true, false] {
        match default_path(under_mps) {
            Ok(path) if !paths.contains(&path) => paths.push(path),
            _ => {} // no pipes, or no folder of the user: no process has a plan there
        }
    }
    paths
}

/// Returns the user that files of this process belong to.
fn user() -> u32 {
    // SAFETY: the function takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

impl Folder {
    /// Opens a folder, which is made where it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, SharingError> {
        let failed = |what| {
            move |error| SharingError::Io {
                what,
                path: path.to_owned(),
                error,
            }
        };
        let bad = |problem| SharingError::Folder {
            path: path.to_owned(),
            problem,
        };
        if !path.is_absolute() {
            return Err(bad(FolderProblem::Relative));
        }
        // Without a slash at the end, by which a link would be followed.
        let path: &Path = &path.components().collect::<PathBuf>();
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("making the folder")(error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP | libc::ENOTDIR) => bad(FolderProblem::NotAFolder),
                _ => failed("opening the folder")(error),
            })?;
        let found = file.metadata().map_err(failed("reading"))?;
        if let Some(problem) = distrust(&found, user()) {
            return Err(bad(problem));
        }
        let parent = path.parent().unwrap_or(path);
        let parent = fs::canonicalize(parent).map_err(failed("reading the folder above"))?;
        for above in parent.ancestors() {
            let found = fs::metadata(above).map_err(failed("reading a folder above"))?;
            if is_replaceable(&found, user()) {
                return Err(bad(FolderProblem::Replaceable {
                    parent: above.to_owned(),
                }));
            }
        }
        if let Some(kind) = not_local(file_system(&file).map_err(failed("reading"))?) {
            return Err(bad(FolderProblem::NotLocal { kind }));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it still has its path. Whoever joins after it was moved or removed would find another one.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        let place = |found: Metadata| (found.dev(), found.ino());
        let own = place(self.file.metadata()?);
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            there => Ok(place(there?) == own),
        }
    }

    /// Returns the path of a file in the folder that is open, whatever has its path by now.
    pub(super) fn within(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.file.as_raw_fd()))
    }

    /// Returns the path of a file for people.
    pub(super) fn shown(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the names of files last.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Ensures that a file is the user's own and no one else can write it; returns the problem.
pub(super) fn distrust_file(found: &Metadata) -> Option<String> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if !found.is_file() {
        Some("it is no ordinary file".to_owned())
    } else if owner != user() {
        Some(format!("it belongs to user {owner}"))
    } else if mode & 0o022 != 0 {
        Some(format!(
            "others than its owner can write it (mode {mode:03o})"
        ))
    } else {
        None
    }
}

fn distrust(found: &Metadata, own: u32) -> Option<FolderProblem> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if !found.is_dir() {
        Some(FolderProblem::NotAFolder)
    } else if owner != own {
        Some(FolderProblem::ForeignOwner { owner, own })
    } else if mode & 0o022 != 0 {
        Some(FolderProblem::WritableByOthers { mode })
    } else {
        None
    }
}

/// Returns whether others than root and the user can rename what is in a folder.
fn is_replaceable(parent: &Metadata, own: u32) -> bool {
    let (owner, mode) = (parent.uid(), parent.mode());
    let is_sticky = mode & 0o1000 != 0;
    (mode & 0o022 != 0 && !is_sticky) || (owner != own && owner != 0)
}

fn file_system(file: &File) -> io::Result<u32> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the output is valid.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.f_type as u32)
}

fn not_local(kind: u32) -> Option<&'static str> {
    let found = NOT_LOCAL.iter().find(|(one, _)| *one == kind);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn problem(path: &Path) -> FolderProblem {
        match Folder::open(path) {
            Err(SharingError::Folder { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[cfg_attr(miri, ignore)] // changes permissions
    fn only_a_folder_of_the_users_own_is_opened() {
        let base = crate::sharing::store::tests::temporary("folder");
        let path = base.join("shared");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(
            folder
                .within("x")
                .to_string_lossy()
                .starts_with("/proc/self/fd/")
        );
        assert!(Folder::open(&path).is_ok(), "it is there already");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert_eq!(
            problem(&path),
            FolderProblem::WritableByOthers { mode: 0o770 }
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();

        let link = base.join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(problem(&link), FolderProblem::NotAFolder);
        let file = base.join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(problem(&file), FolderProblem::NotAFolder);
        assert_eq!(problem(Path::new("shared")), FolderProblem::Relative);

        fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(problem(&path), FolderProblem::Replaceable { .. }));
        let below = path.join("below");
        let parent = base.canonicalize().unwrap();
        assert_eq!(problem(&below), FolderProblem::Replaceable { parent });
        fs::set_permissions(&base, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(Folder::open(&path).is_ok(), "as /tmp is");
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore)] // reads permissions
    fn other_owners_and_other_machines_are_told() {
        let here = fs::metadata("/proc/self").unwrap();
        let own = here.uid();
        let foreign = distrust(&here, own + 1);
        assert_eq!(
            foreign,
            Some(FolderProblem::ForeignOwner {
                owner: own,
                own: own + 1
            })
        );
        assert_eq!(not_local(0x6969), Some("NFS"));
        assert_eq!(not_local(0x0102_1994), None, "tmpfs");
        let missing = Folder::open(Path::new("/proc/none/none")).unwrap_err();
        assert!(matches!(missing, SharingError::Io { .. }), "{missing}");
    }
}

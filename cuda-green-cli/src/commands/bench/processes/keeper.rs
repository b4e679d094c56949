//! The process that keeps what outlives the others: a folder for plans and logs, and the MPS daemon. It ends and removes
//! them when the measurement ends, however that comes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, bail};

use super::{
    daemon::{self, Daemon},
    protocol::{self, Answer, Order},
};

/// A new folder, which is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let base = env::temp_dir();
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        for attempt in 0..100 {
            let path = base.join(format!("cuda-green-{}-{attempt}", process::id()));
            match builder.create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => Err(error).with_context(|| format!("making {}", path.display()))?,
            }
        }
        bail!("no name for a folder in {} is free", base.display())
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn run() -> anyhow::Result<()> {
    let mut folder: Option<Folder> = None;
    let mut daemon = None;
    let served = protocol::serve(|order| match order {
        Order::Keep { daemon: wanted } if folder.is_none() => {
            let made = folder.insert(Folder::new()?);
            for folder in daemon::folders(made.path()) {
                fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
            }
            let mut no_daemon = None;
            if wanted {
                match Daemon::start(made.path()) {
                    Ok(started) => daemon = Some(started),
                    Err(error) => no_daemon = Some(format!("{error:#}")),
                }
            }
            Ok(Answer::Kept {
                folder: made.path().to_owned(),
                no_daemon,
            })
        }
        other => bail!("the keeper cannot obey {other:?}"),
    });
    let ended = daemon.map_or(Ok(()), Daemon::end);
    served?;
    ended
}

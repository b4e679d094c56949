//! The reasons why processes cannot share a device by one plan, each with what to do.

use std::{fmt, io, path::PathBuf};

/// The reason why this process cannot join a plan among processes, or why it does not get a name of it.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum SharingError {
    /// The system has no locks that end with an open file.
    #[error(
        "processes share a device by open-file-description locks, which only Linux has; let one process hold all partitions here"
    )]
    NotLinux,
    /// There is no folder for the plan.
    #[error("there is no folder for a plan among processes: {reason}")]
    NoFolder {
        /// The reason, and what to do.
        reason: String,
    },
    /// The folder of the plan cannot be trusted, or has not what the plan needs.
    #[error("{} cannot hold a plan among processes: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The problem, and what to do.
        problem: FolderProblem,
    },
    /// A file in the folder is not what this version writes.
    #[error(
        "{} is not used: {problem}; end all processes that share the device by it, then remove it",
        path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The system refused an operation.
    #[error("{what} {} failed: {error}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Other processes hold names of a plan that is not the one asked for.
    #[error(
        "other processes hold the device by a plan of {field} {theirs}, and this one asks for {ours}; {help}"
    )]
    AnotherPlan {
        /// The part of the plan that differs.
        field: &'static str,
        /// Its value in the plan in force.
        theirs: String,
        /// The value that was asked for.
        ours: String,
        /// What to do.
        help: &'static str,
    },
    /// No plan is in force, and none was asked for.
    #[error(
        "no plan is in force for this device, and none was given: start with the list of its partitions"
    )]
    NoPlan,
    /// A list of names cannot be.
    #[error("the name {name:?} of a partition among processes: {reason}")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        reason: &'static str,
    },
    /// The plan has no partition of this name.
    #[error("the plan in force has no partition {name:?}; it has {}", names.join(", "))]
    NoSuchName {
        /// The name.
        name: String,
        /// Those that there are.
        names: Vec<String>,
    },
    /// A live process holds the name.
    #[error(
        "{name:?} is held by {}; wait longer (`SharedPlan::wait`), or end that process (`cuda-green partitions end`)",
        holder.as_deref().unwrap_or("another process")
    )]
    Held {
        /// The name.
        name: String,
        /// The process in words, where it has said who it is.
        holder: Option<String>,
    },
    /// The process that held the name is gone, but its work may still be on the GPU.
    #[error("{name:?} was held by {holder}, which did not give it back: {reason}")]
    Dirty {
        /// The name.
        name: String,
        /// The process in words.
        holder: String,
        /// The reason why its SMs are not known to be idle, and what to do.
        reason: String,
    },
    /// Another process changes the plan.
    #[error(
        "another process has been changing the plan of this device for longer than this one waits; wait longer, or end it"
    )]
    Busy,
    /// A subscriber or a logger changes shares on the thread by which a manager follows changes.
    #[error(
        "this thread follows changes of a plan for a manager, so it would wait for itself; change shares on another thread"
    )]
    WaitsForItself,
    /// The plan that the manager joined is no longer in force.
    #[error(
        "nobody held a name of the plan that this manager joined, and another has taken its place; drop the manager, and join again"
    )]
    Replaced,
    /// The plan was not changed, as processes did not leave SMs in time. All have what they had.
    #[error("the plan stays as it is: {}", in_words(holders))]
    NotLeft {
        /// Those that did not.
        holders: Vec<NotLeft>,
    },
    /// The split of the plan has no units that can change hands.
    #[error(
        "the parts of this plan's split do not merge, so its shares stay as they are; end the processes that hold the device, and let them agree on another list (splits merge from CUDA 12.5 on, for sizes that are multiples of their units)"
    )]
    FixedShares,
    /// The process that holds a name was not ended.
    #[error("the holder of {name:?} was not ended: {reason}")]
    NotEnded {
        /// The name.
        name: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// The second process of the test whether groups are apart failed.
    #[error("{}, the second process of the test whether groups are apart, failed: {problem}", program.display())]
    Partner {
        /// Its program.
        program: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The process has more privileges than its user.
    #[error(
        "a process with raised privileges trusts no folder and no program that its environment names, so it joins no plan; join from one without"
    )]
    RaisedPrivileges,
    /// A manager that joined a plan among processes keeps to it.
    #[error("{what} would leave the plan that this manager shares with other processes; {instead}")]
    Joined {
        /// The operation.
        what: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The manager has joined no plan.
    #[error(
        "this manager has joined no plan among processes: `SmPartitionManager::join` makes one that has"
    )]
    NotJoined,
    /// The driver split the device otherwise than the plan says.
    #[error(
        "the driver's split is not that of the plan in force ({reason}), so partitions of other processes could overlap; end all processes that share the device, and let them agree again"
    )]
    AnotherSplit {
        /// The difference.
        reason: String,
    },
    /// The locks are those of the process that this one was forked from.
    #[error(
        "this process was forked from one that shares the device, and holds nothing of it; start it by `exec`"
    )]
    Forked,
    /// The process has joined as many plans as it can at once.
    #[error("this process shares {most} devices already")]
    TooMany {
        /// The limit.
        most: usize,
    },
}

/// A holder of a name that did not leave SMs in time, so that others did not get them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotLeft {
    /// The name.
    pub name: String,
    /// The id of its process, where the record says so.
    pub pid: Option<u32>,
    /// The name of the process's program, where the kernel tells it.
    pub program: Option<String>,
    /// The reason.
    pub reason: NotLeftReason,
}

/// The reason why a holder did not leave SMs in time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotLeftReason {
    /// The process said nothing: it is stopped, or only handles are left of the manager that joined the plan.
    Silent,
    /// A handle, a stream, a guard or a resource of the context that it had keeps the SMs.
    InUse,
    /// Work is not over: on them; or anywhere on the device while the driver makes the context over fewer SMs, which
    /// waits for all work of the process (seen on an H200, driver 580).
    Working,
    /// One of its streams is in a capture.
    InCapture,
    /// Its driver refused the context over fewer SMs; its log says why.
    Failed,
    /// The process is gone, and its SMs are not known to be idle, for this reason.
    Dirty(String),
}

impl fmt::Display for NotLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("a process")?,
        }
        if let Some(program) = &self.program {
            write!(f, " ({program})")?;
        }
        write!(
            f,
            " did not leave SMs of {:?} in time: {}",
            self.name, self.reason
        )
    }
}

impl fmt::Display for NotLeftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "it does not answer; it may be stopped, or have dropped the manager and kept a context",
            Self::InUse => {
                "a handle, stream, guard or resource of its context is in use; work by a `PartitionStream`, or let go of it"
            }
            Self::Working => "its work on the device is not over; wait longer",
            Self::InCapture => "one of its streams is in a capture; end that",
            Self::Failed => "it could not make a context of fewer SMs; its log says why",
            Self::Dirty(reason) => reason,
        })
    }
}

fn in_words(holders: &[NotLeft]) -> String {
    let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
    holders.join("; ")
}

/// The reason why a folder cannot hold a plan among processes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FolderProblem {
    /// It belongs to another user.
    ForeignOwner {
        /// The owner's id.
        owner: u32,
        /// The id of this process's user.
        own: u32,
    },
    /// Others than its owner can write it.
    WritableByOthers {
        /// Its permissions.
        mode: u32,
    },
    /// Others than its owner can replace it, as they can write the folder that it is in.
    Replaceable {
        /// The folder that it is in.
        parent: PathBuf,
    },
    /// It is a symbolic link, or no folder.
    NotAFolder,
    /// It lies on another machine's disk, or on a file system that does not say whose locks are whose.
    NotLocal {
        /// The kind of its file system.
        kind: &'static str,
    },
    /// It is named relative to the current folder, which differs among processes.
    Relative,
}

impl fmt::Display for FolderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignOwner { owner, own } => write!(
                f,
                "it belongs to user {owner}, and this process runs as user {own}; processes that share a device run as one user"
            ),
            Self::WritableByOthers { mode } => write!(
                f,
                "others than its owner can write it (mode {mode:03o}); `chmod 700` it"
            ),
            Self::Replaceable { parent } => write!(
                f,
                "others than its owner can replace it, as {} is writable by them and has no sticky bit; choose another, by `SharedPlan::in_folder` or CUDA_GREEN_SHARED_DIR",
                parent.display()
            ),
            Self::NotAFolder => f.write_str(
                "it is a symbolic link, or not a folder; remove it, or name another, by `SharedPlan::in_folder` or CUDA_GREEN_SHARED_DIR",
            ),
            Self::NotLocal { kind } => write!(
                f,
                "it is on {kind}, where locks do not end with their process; choose a folder on a local disk or in memory, by `SharedPlan::in_folder` or CUDA_GREEN_SHARED_DIR"
            ),
            Self::Relative => f.write_str(
                "its path is relative, and processes start in different folders; give an absolute one",
            ),
        }
    }
}

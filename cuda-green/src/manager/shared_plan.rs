//! The plan that processes agree on, as a program asks for it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::planner::PartitionRequest;

/// The partitions of a device that several processes share, and where they agree on them.
///
/// All processes give the same list. The first one plans it and writes the plan down, with the split; the others make the
/// same split and take their names of it: see [`SmPartitionManager::join`](crate::SmPartitionManager::join).
#[derive(Clone, Debug, Default)]
pub struct SharedPlan {
    pub(super) partitions: Vec<(String, PartitionRequest)>,
    pub(super) folder: Option<PathBuf>,
    pub(super) patience: Duration,
    /// The program, with its arguments, that is the second process of the test whether groups are apart.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))] // no plan is made there
    pub(super) tester: Option<(PathBuf, Vec<OsString>)>,
}

impl SharedPlan {
    /// Returns a plan of these names, at most 64. A name has 1 to 64 bytes: letters, digits, ASCII punctuation, and
    /// spaces inside. Without names it is [`in_force`](Self::in_force).
    pub fn of<Name: Into<String>>(
        partitions: impl IntoIterator<Item = (Name, PartitionRequest)>,
    ) -> Self {
        let partitions = partitions.into_iter();
        Self {
            partitions: partitions
                .map(|(name, request)| (name.into(), request))
                .collect(),
            ..Self::default()
        }
    }

    /// Returns whatever plan is in force. Where none is, joining fails.
    pub fn in_force() -> Self {
        Self::default()
    }

    /// Agrees on the plan in this folder, and not in the one that the environment gives: `CUDA_GREEN_SHARED_DIR`; else
    /// beside the pipes of the MPS server (`/tmp/nvidia-mps.cuda-green`); else `/run/user/<uid>/cuda-green`.
    ///
    /// All processes must name one folder: those that name two agree on two plans, and their SMs overlap. It is made where
    /// it is missing, in one that is there. Its path is absolute; it must be on a local disk or in memory, belong to the
    /// user, and be writable by no one else.
    #[must_use]
    pub fn in_folder(self, folder: impl AsRef<Path>) -> Self {
        Self {
            folder: Some(folder.as_ref().to_owned()),
            ..self
        }
    }

    /// Has the plan's split tested once, when this process makes the plan: whether its groups are apart in two processes.
    /// The result is kept beside the plan, for all plans of that split
    /// ([`SharedStatus::separation`](crate::SharedStatus::separation)).
    ///
    /// The second process is this program with these arguments, which must call
    /// [`serve_separation_test`](crate::serve_separation_test): the caller's own program, or
    /// `cuda-green separation-partner`. Without this, the program that `CUDA_GREEN_TESTER` names is started with the
    /// argument `separation-partner`. It has the environment of this process, so it is a client of the same MPS server.
    /// The test takes about a second, while nobody can hold a name: others that join meanwhile wait two seconds, or as
    /// long as their plan says.
    #[must_use]
    pub fn tested_by<Argument: Into<OsString>>(
        self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self {
            tester: Some((program.into(), arguments)),
            ..self
        }
    }

    /// Waits as long as this for names that others hold, for processes that hold another plan, and in
    /// [`set_shares`](crate::SmPartitionManager::set_shares) for those that are to leave SMs. Without it, the first two are
    /// errors at once.
    #[must_use]
    pub fn wait(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

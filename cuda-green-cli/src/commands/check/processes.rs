//! The test whether partitions of two processes are apart, with a second process of this program.

use std::{
    env,
    fs::{self, DirBuilder},
    path::PathBuf,
    process,
};

use anyhow::Context;
use cuda_green::{CudaDevice, Error, MpsStatus, Separation, SharedPlan, SmPartitionManager};

use super::finding::Finding;
use crate::{args::Global, partitions::quad};

/// A folder for the plan of the test, which is nobody else's.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = env::temp_dir().join(format!("cuda-green-check-{}", process::id()));
        // Of a killed process of this number.
        let _ = fs::remove_dir_all(&path);
        let mut builder = DirBuilder::new();
        // Whatever the user's umask is, which often lets a group write.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let made = builder.create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Tests whether four equal partitions are apart in two processes.
pub fn apart(global: &Global, device: &CudaDevice, mps: &MpsStatus) -> anyhow::Result<Finding> {
    if mps.refuses_splits.is_some() {
        return Ok(Finding::note(
            "it was not tested whether partitions of two processes are apart: under this limit of MPS there are none",
            "Lift the limit first.",
        ));
    }
    let folder = Folder::new()?;
    let quad = quad(device.properties().multiprocessor_count);
    let partitions = quad.into_iter().enumerate();
    let partitions = partitions.map(|(index, (_, request))| ((index + 1).to_string(), request));
    let mut arguments = vec!["separation-partner".into()];
    arguments.extend(global.driver_arguments());
    let program = env::current_exe().context("this program cannot be found")?;
    let plan = SharedPlan::of(partitions)
        .in_folder(folder.0.join("plan"))
        .tested_by(program, arguments);
    let manager = match SmPartitionManager::join(device, &plan, &[]) {
        Err(error @ Error::Sharing(_)) => {
            let reason = error.to_string();
            return Ok(finding(Separation::NotTested { reason }));
        }
        joined => joined?,
    };
    let status = manager.allocation_status().shared;
    let separation = status.map(|status| status.separation);
    Ok(finding(separation.context("the manager has no plan")?))
}

fn finding(separation: Separation) -> Finding {
    match separation {
        Separation::Apart => Finding::good(
            "partitions of two processes are apart: blocks that fill each pair of the split's groups, one in each process, ran at the same time",
        ),
        Separation::Failed { reason } => Finding::bad(
            format!(
                "partitions of two processes are not apart, their SMs are shared in time, and nothing is isolated: {reason}"
            ),
            "If other work keeps the GPU busy, try again when it is idle. If not, please report it with the output of \
             `cuda-green info --json`, and keep all partitions in one process.",
        ),
        other => Finding::note(
            other.to_string(),
            "Start an MPS daemon (`nvidia-cuda-mps-control -d`) and this program as its client; the guide \"processes\" says how.",
        ),
    }
}

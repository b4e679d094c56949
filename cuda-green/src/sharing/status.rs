//! The plan and its claims as a status shows them.

use std::{fmt, path::PathBuf, time::Duration};

use super::{agreed_plan::AgreedPlan, separation::Separation};
use crate::{planner::SmRequest, sharing_error::SharingError};

/// A plan among processes, and who holds its names, as one process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedStatus {
    /// The folder of the plan.
    pub folder: PathBuf,
    /// The number of the plan.
    pub generation: u64,
    /// The number of the plan that is announced, while a change waits for holders to leave SMs.
    pub announced: Option<u64>,
    /// Whether the process uses the device through MPS. Without it the GPU runs one process at a time, so that the names
    /// keep nothing apart: their work takes turns.
    pub under_mps: bool,
    /// Whether the names are known to be apart among processes.
    pub separation: Separation,
    /// The names of the plan, in its order.
    pub names: Vec<SharedName>,
    /// SMs of the device that no name has.
    pub unassigned_sms: u32,
}

/// One name of a plan among processes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedName {
    /// The name.
    pub name: String,
    /// The share that it is to have since the last change.
    pub share: SmRequest,
    /// SMs that it has.
    pub sm_count: u32,
    /// SMs that the announced plan gives to it, if one is announced.
    pub announced_sms: Option<u32>,
    /// The process that holds it.
    pub holder: NameHolder,
}

impl SharedName {
    /// Returns the names of a plan, beside which another one may be announced. One whose holder cannot be found is
    /// dirty.
    pub(super) fn of_plan(
        plan: &AgreedPlan,
        next: Option<&AgreedPlan>,
        holder: impl Fn(usize) -> Result<NameHolder, SharingError>,
    ) -> Vec<Self> {
        let names = plan.partitions.iter().enumerate();
        let names = names.map(|(index, partition)| Self {
            name: partition.name.clone(),
            share: partition.share,
            sm_count: partition.planned.sm_count,
            announced_sms: next
                .and_then(|next| next.partitions.get(index))
                .map(|next| next.planned.sm_count),
            holder: holder(index).unwrap_or_else(|error| NameHolder::Dirty {
                pid: None,
                reason: error.to_string(),
            }),
        });
        names.collect()
    }
}

/// The holder of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameHolder {
    /// Nobody.
    Free,
    /// This manager.
    Own,
    /// Another process; or another manager of this one, as one sees it who has not joined.
    Process {
        /// Its id; none in the moment between its lock and its record.
        pid: Option<u32>,
        /// The name of its program, at most 15 bytes of it, where the system tells.
        program: Option<String>,
        /// Seconds from 1970 to its claim.
        since: Option<u64>,
    },
    /// None any more, but its SMs are not known to be idle.
    Dirty {
        /// The id of the process that had it, where the record says so.
        pid: Option<u32>,
        /// The reason why they are not known to be.
        reason: String,
    },
}

/// A change of a plan among processes that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanChange {
    /// The number of the plan now in force.
    pub generation: u64,
    /// The names of the plan, in its order.
    pub names: Vec<ChangedName>,
    /// Names whose holders have not yet said that they run on their new SMs. Those that they run on are still theirs.
    pub behind: Vec<String>,
    /// SMs of the device that no name has now.
    pub unassigned_sms: u32,
    /// The time from the call until all holders ran on their new SMs, or this one waited no longer.
    pub took: Duration,
}

/// One name of a plan that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedName {
    /// The name.
    pub name: String,
    /// SMs that it had before.
    pub sms_before: u32,
    /// SMs that it has now.
    pub sms_after: u32,
}

impl fmt::Display for PlanChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan {} among processes", self.generation)?;
        for one in &self.names {
            if one.sms_before == one.sms_after {
                write!(f, "\n  {}: {} SMs, as before", one.name, one.sms_after)?;
            } else {
                write!(
                    f,
                    "\n  {}: {} SMs, before {}",
                    one.name, one.sms_after, one.sms_before
                )?;
            }
            if self.behind.contains(&one.name) {
                f.write_str("; its process has not answered yet")?;
            }
        }
        told_unassigned(f, self.unassigned_sms)
    }
}

impl fmt::Display for NameHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Own => f.write_str("held by this manager"),
            Self::Process {
                pid: Some(pid),
                program: Some(program),
                ..
            } => write!(f, "held by process {pid} ({program})"),
            Self::Process { pid: Some(pid), .. } => write!(f, "held by process {pid}"),
            Self::Process { pid: None, .. } => f.write_str("held by another process"),
            Self::Dirty { reason, .. } => write!(f, "not given back: {reason}"),
        }
    }
}

impl fmt::Display for SharedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "plan {} among processes, in {}",
            self.generation,
            self.folder.display()
        )?;
        if let Some(announced) = self.announced {
            write!(f, "; plan {announced} is announced")?;
        }
        if !self.under_mps {
            f.write_str(
                "; without MPS processes take turns on the GPU, and nothing is kept apart",
            )?;
        } else {
            write!(f, "; {}", self.separation)?;
        }
        for one in &self.names {
            let SharedName {
                name,
                share,
                sm_count,
                announced_sms,
                holder,
            } = one;
            write!(f, "\n  {name}: {sm_count} SMs")?;
            if let Some(announced) = announced_sms {
                write!(f, ", then {announced}")?;
            }
            write!(f, " ({share}), {holder}")?;
        }
        told_unassigned(f, self.unassigned_sms)
    }
}

/// Tells of SMs that no name has.
fn told_unassigned(f: &mut fmt::Formatter<'_>, sms: u32) -> fmt::Result {
    match sms {
        0 => Ok(()),
        sms => write!(
            f,
            "\n  {sms} SMs are in no partition; one with `rest` would have them"
        ),
    }
}

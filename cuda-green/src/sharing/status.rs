//! The plan and its claims as a status shows them.

use std::{fmt, path::PathBuf};

/// A plan among processes, and who holds its names, as one process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedStatus {
    /// The folder of the plan.
    pub folder: PathBuf,
    /// The number of the plan.
    pub generation: u64,
    /// Whether the process uses the device through MPS. Without it the GPU runs one process at a time, so that the names
    /// keep nothing apart: their work takes turns.
    pub under_mps: bool,
    /// The names of the plan, in its order.
    pub names: Vec<SharedName>,
}

/// One name of a plan among processes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedName {
    /// The name.
    pub name: String,
    /// SMs that it has.
    pub sm_count: u32,
    /// The process that holds it.
    pub holder: NameHolder,
}

/// The holder of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameHolder {
    /// Nobody.
    Free,
    /// This manager.
    Own,
    /// Another process, or another manager of this one.
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
        if !self.under_mps {
            f.write_str(
                "; without MPS processes take turns on the GPU, and nothing is kept apart",
            )?;
        }
        for one in &self.names {
            write!(f, "\n  {}: {} SMs, {}", one.name, one.sm_count, one.holder)?;
        }
        Ok(())
    }
}

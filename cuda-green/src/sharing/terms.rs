//! The terms on which a process joins a plan.

use std::{path::Path, time::Duration};

use crate::planner::PartitionRequest;

/// What a process brings to a plan.
pub(crate) struct Terms<'a> {
    /// The folder, if it is not to be found by the environment.
    pub(crate) folder: Option<&'a Path>,
    pub(crate) device: [u8; 16],
    pub(crate) under_mps: bool,
    pub(crate) sm_count: u32,
    pub(crate) driver: i32,
    /// The partitions of the plan; none for whatever plan is in force.
    pub(crate) requests: &'a [(String, PartitionRequest)],
    /// How long to wait for what others have.
    pub(crate) patience: Duration,
}

//! The plan that processes agree on, and what it is for.

use super::plan_text;
use crate::{
    planner::{
        Part, PartitionRequest, Plan, PlannedPartition, SmRequest, SplitCall, SplitStrategy,
    },
    sharing_error::SharingError,
};

/// The most names of a plan.
pub(super) const MOST_NAMES: usize = 64;
/// The most bytes of a name.
pub(super) const LONGEST_NAME: usize = 64;

/// The facts that a plan holds for. Where one differs, the SMs of two processes could overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlanKey {
    pub(crate) device: [u8; 16],
    /// The device and the inode of the folder of the MPS server's pipes; none without MPS.
    pub(crate) server: Option<(u64, u64)>,
    /// SMs that the driver reports.
    pub(crate) sm_count: u32,
    /// The driver's version, as it writes it.
    pub(crate) driver: i32,
    /// The id of the system's start: no process outlives it.
    pub(crate) boot: String,
}

/// One partition of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgreedPartition {
    pub(crate) name: String,
    /// What the list of partitions asks for, on which processes agree.
    pub(crate) request: PartitionRequest,
    /// What it is to have since the last change.
    pub(crate) share: SmRequest,
    pub(crate) planned: PlannedPartition,
}

/// A split of the device and the names of its parts, the same in every process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgreedPlan {
    /// The number of the plan: each has a higher one than that which it replaced.
    pub(crate) generation: u64,
    pub(crate) key: PlanKey,
    pub(crate) strategy: SplitStrategy,
    pub(crate) call: SplitCall,
    pub(crate) nested: Vec<u32>,
    pub(crate) partitions: Vec<AgreedPartition>,
}

/// A difference between a plan and what is asked for.
pub(super) struct Difference {
    pub(super) field: &'static str,
    pub(super) theirs: String,
    pub(super) ours: String,
    pub(super) help: &'static str,
}

impl From<Difference> for SharingError {
    fn from(difference: Difference) -> Self {
        Self::AnotherPlan {
            field: difference.field,
            theirs: difference.theirs,
            ours: difference.ours,
            help: difference.help,
        }
    }
}

impl AgreedPlan {
    /// Returns the plan of these requests, which the planner met in their order.
    pub(crate) fn of(key: &PlanKey, requests: &[(String, PartitionRequest)], plan: Plan) -> Self {
        let partitions = requests.iter().zip(plan.partitions);
        Self {
            generation: 0,
            key: key.clone(),
            strategy: plan.strategy,
            call: plan.call,
            nested: plan.nested,
            partitions: partitions
                .map(|((name, request), planned)| AgreedPartition {
                    name: name.clone(),
                    request: *request,
                    share: request.sms,
                    planned,
                })
                .collect(),
        }
    }

    /// Returns the index of a name.
    pub(crate) fn position(&self, name: &str) -> Result<usize, SharingError> {
        let found = self.partitions.iter().position(|one| one.name == name);
        found.ok_or_else(|| SharingError::NoSuchName {
            name: name.to_owned(),
            names: self.partitions.iter().map(|one| one.name.clone()).collect(),
        })
    }

    /// Returns whether the two divide one split among the same names, so that a part of it is the same SMs in both.
    pub(crate) fn has_the_split_of(&self, other: &Self) -> bool {
        let names = |plan: &Self| {
            let names = plan.partitions.iter();
            names
                .map(|one| (one.name.clone(), one.request))
                .collect::<Vec<_>>()
        };
        let split = |plan: &Self| (plan.strategy, plan.call.clone(), plan.nested.clone());
        self.key == other.key && split(self) == split(other) && names(self) == names(other)
    }

    /// Returns the number of SMs that no name has.
    pub(super) fn unassigned_sms(&self) -> u32 {
        let names = self.partitions.iter();
        let assigned: u32 = names.map(|one| one.planned.sm_count).sum();
        self.key.sm_count.saturating_sub(assigned)
    }

    /// Returns the parts of each name.
    pub(crate) fn parts(&self, index: usize) -> &[Part] {
        let partition = self.partitions.get(index);
        partition.map_or(&[], |partition| &partition.planned.parts)
    }

    /// Returns the first difference from these facts and requests; no requests stand for any.
    pub(super) fn difference(
        &self,
        key: &PlanKey,
        requests: &[(String, PartitionRequest)],
    ) -> Option<Difference> {
        const AGAIN: &str = "end all of them, and start them again";
        let differs = |field, theirs: String, ours: String, help| {
            (theirs != ours).then_some(Difference {
                field,
                theirs,
                ours,
                help,
            })
        };
        let asked = || {
            let own = self.partitions.iter().map(|one| (&one.name, &one.request));
            let theirs = in_words(own);
            let ours = in_words(requests.iter().map(|(name, request)| (name, request)));
            let help = "give all processes one list of partitions, or end those that have another";
            differs("partitions", theirs, ours, help).filter(|_| !requests.is_empty())
        };
        let plan = &self.key;
        differs("system start", plan.boot.clone(), key.boot.clone(), AGAIN)
            .or_else(|| {
                let help = "unset CUDA_MPS_ACTIVE_THREAD_PERCENTAGE and static partitions, or set the same for all";
                let (theirs, ours) = (plan.sm_count.to_string(), key.sm_count.to_string());
                differs("SM count", theirs, ours, help)
            })
            .or_else(|| {
                let help = "start all processes under one MPS server, with one CUDA_MPS_PIPE_DIRECTORY";
                differs("MPS server", server_in_words(plan), server_in_words(key), help)
            })
            .or_else(|| {
                let (theirs, ours) = (plan.driver.to_string(), key.driver.to_string());
                differs("driver version", theirs, ours, AGAIN)
            })
            .or_else(asked)
    }

    /// Ensures that the plan is one that a planner could have made: names are fit and differ, no part is in two
    /// partitions, and their SMs fit on the device.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let most = self.key.sm_count as usize;
        let groups = match &self.call {
            SplitCall::Structured(groups) => groups.len(),
            SplitCall::ByCount { groups, .. } => *groups as usize,
        };
        if most == 0 || groups > most || self.nested.len() > most {
            return Err("its split has more groups than the device has SMs");
        }
        if self.partitions.is_empty() || self.partitions.len() > MOST_NAMES {
            return Err("it has no partitions, or too many");
        }
        let mut sms = 0_u64;
        let mut parts: Vec<Part> = Vec::new();
        for (index, partition) in self.partitions.iter().enumerate() {
            let before = self.partitions.get(..index).unwrap_or_default();
            if before.iter().any(|one| one.name == partition.name) {
                return Err("two of its partitions have one name");
            }
            check_name(&partition.name)?;
            if partition.planned.sm_count == 0 || partition.planned.parts.is_empty() {
                return Err("one of its partitions has no SMs");
            }
            if partition.planned.parts.len() > 1 && !self.strategy.merges() {
                return Err("it merges groups that its split does not merge");
            }
            sms += u64::from(partition.planned.sm_count);
            parts.extend(&partition.planned.parts);
        }
        let all = groups + self.nested.len();
        if parts
            .iter()
            .any(|part| matches!(part, Part::Group(index) if *index >= all))
        {
            return Err("a partition has a group that the split does not make");
        }
        let given = parts.len();
        parts.sort_unstable();
        parts.dedup();
        if parts.len() < given {
            return Err("two of its partitions have one group");
        }
        if sms > u64::from(self.key.sm_count) {
            return Err("its partitions have more SMs than the device");
        }
        Ok(())
    }

    /// Returns the plan as the file has it.
    pub(crate) fn to_text(&self) -> String {
        plan_text::write(self)
    }
}

/// Ensures that a list can be the partitions of a plan.
pub(super) fn check_names(names: &[(String, PartitionRequest)]) -> Result<(), SharingError> {
    for (index, (name, _)) in names.iter().enumerate() {
        let before = names.get(..index).unwrap_or_default();
        let checked = match check_name(name) {
            Ok(()) if index >= MOST_NAMES => Err("a plan has at most 64 names"),
            Ok(()) if before.iter().any(|(other, _)| other == name) => Err("the list has it twice"),
            checked => checked,
        };
        checked.map_err(|reason| SharingError::Name {
            name: name.clone(),
            reason,
        })?;
    }
    Ok(())
}

/// Ensures that a name is short, printable, and neither begins nor ends with a space: it ends its line in the file.
fn check_name(name: &str) -> Result<(), &'static str> {
    let is_fit = |c: char| c.is_alphanumeric() || c == ' ' || c.is_ascii_punctuation();
    if name.is_empty() || name.len() > LONGEST_NAME {
        Err("it has 1 to 64 bytes")
    } else if name.trim() != name || !name.chars().all(is_fit) {
        Err("it consists of letters, digits, ASCII punctuation, and spaces inside")
    } else {
        Ok(())
    }
}

fn in_words<'a>(partitions: impl Iterator<Item = (&'a String, &'a PartitionRequest)>) -> String {
    let partitions = partitions.map(|(name, request)| format!("{name}: {request}"));
    partitions.collect::<Vec<_>>().join(", ")
}

fn server_in_words(key: &PlanKey) -> String {
    match key.server {
        None => "none".to_owned(),
        Some((device, inode)) => format!("of the pipes {device}:{inode}"),
    }
}

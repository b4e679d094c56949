//! Verification: the SMs that each partition's blocks really run on, measured on the device.
//!
//! Blocks read the ids of their SMs, except under MPS, where the ids differ between contexts (measured on an H200,
//! driver 580). There, contexts are shown to be disjoint by blocks that fit on the device together only if no SM is
//! shared.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{label::label, mode::PartitionMode, state::ManagerState};
use crate::{
    error::Result,
    partition::{ContextPolicy, GreenContext},
    probe,
};

/// The result of [`SmPartitionManager::verify`](crate::SmPartitionManager::verify).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification<Id> {
    /// The method by which contexts were distinguished.
    pub method: VerificationMethod,
    /// The SMs that each context's blocks ran on, in the order of the contexts. Under MPS each context numbers its
    /// SMs, so that only their count means anything.
    pub contexts: Vec<(Id, BTreeSet<u32>)>,
    /// The SMs that blocks in the primary context ran on: all of them, those of every partition too.
    pub primary: BTreeSet<u32>,
    /// Pairs of contexts that have SMs in common. Empty in a healthy partition.
    pub overlaps: Vec<Overlap<Id>>,
    /// Contexts whose blocks ran on another number of SMs than they have.
    pub miscounted: Vec<Miscount<Id>>,
}

/// The method by which a [`Verification`] distinguishes contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VerificationMethod {
    /// By the ids of the SMs that their blocks ran on.
    SmIds,
    /// By residency, under MPS: blocks that fill every SM of both contexts were on the device at the same time.
    Residency,
}

/// Two contexts of a [`Verification`] that share SMs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overlap<Id> {
    /// Both ids, in the order of the contexts.
    pub between: [Id; 2],
    /// The SMs on which both ran; empty for [`VerificationMethod::Residency`], which names none.
    pub sms: BTreeSet<u32>,
}

/// A context of a [`Verification`] that ran on another number of SMs than it has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Miscount<Id> {
    /// The context.
    pub id: Id,
    /// The number of SMs that it has, by its status.
    pub sm_count: u32,
    /// The number of SMs that its blocks ran on.
    pub observed: u32,
}

impl<Id> Verification<Id> {
    /// Returns whether no two contexts share SMs, and each has as many as its status says.
    pub fn is_isolated(&self) -> bool {
        self.overlaps.is_empty() && self.miscounted.is_empty()
    }
}

impl<Id: fmt::Debug> fmt::Display for Verification<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, sms) in &self.contexts {
            writeln!(f, "{} runs on {} SMs", label(id), sms.len())?;
        }
        for Overlap { between, sms } in &self.overlaps {
            let [one, other] = between.each_ref().map(label);
            match self.method {
                VerificationMethod::SmIds => {
                    writeln!(f, "{one} and {other} share {} SMs", sms.len())?;
                }
                VerificationMethod::Residency => writeln!(
                    f,
                    "{one} and {other} share SMs, or other work keeps them busy: their blocks were never \
                     on the device at the same time"
                )?,
            }
        }
        for miscount in &self.miscounted {
            let Miscount {
                id,
                sm_count,
                observed,
            } = miscount;
            writeln!(f, "{} has {sm_count} SMs, but ran on {observed}", label(id))?;
        }
        write!(
            f,
            "work left in the primary context, default streams included, runs on {} SMs: on those of every partition",
            self.primary.len()
        )
    }
}

impl<Id: Clone + Eq + fmt::Debug> ManagerState<Id> {
    /// Finds out on which SMs each context runs, by the method that works here.
    pub(super) fn verify(&self) -> Result<Verification<Id>> {
        self.verify_by(if self.device.is_under_mps() {
            VerificationMethod::Residency
        } else {
            VerificationMethod::SmIds
        })
    }

    /// Finds out on which SMs each context runs, and distinguishes contexts by this method.
    pub(super) fn verify_by(&self, method: VerificationMethod) -> Result<Verification<Id>> {
        let all = self.in_force();
        let mut contexts: Vec<(Id, BTreeSet<u32>)> = Vec::with_capacity(all.len());
        let mut miscounted = Vec::new();
        for (id, context) in &all {
            let sms: BTreeSet<u32> = context.observed_sm_ids()?.into_iter().collect();
            let (sm_count, observed) = (context.sm_count(), sms.len() as u32);
            if observed != sm_count {
                miscounted.push(Miscount {
                    id: id.clone(),
                    sm_count,
                    observed,
                });
            }
            contexts.push((id.clone(), sms));
        }
        let overlaps = match method {
            VerificationMethod::SmIds => common_ids(&contexts),
            VerificationMethod::Residency => not_together(&all, &contexts)?,
        };
        if self.mode == PartitionMode::Partitioned && !overlaps.is_empty() {
            log::error!("partitions of {} overlap", self.device.name());
        }
        let primary =
            GreenContext::primary(&self.device, ContextPolicy::default())?.observed_sm_ids()?;
        Ok(Verification {
            method,
            contexts,
            primary: primary.into_iter().collect(),
            overlaps,
            miscounted,
        })
    }

    /// Returns the contexts in force, with their names.
    pub(super) fn in_force(&self) -> Vec<(Id, GreenContext)> {
        let current = self
            .registry
            .each_in_force(|id, context| (Arc::clone(id), context.clone()));
        // Ids are copied with no lock held.
        let current = current
            .into_iter()
            .map(|(id, context)| (Id::clone(&id), context));
        current.collect()
    }
}

/// Returns the pairs of contexts whose blocks ran on the same SMs.
fn common_ids<Id: Clone>(contexts: &[(Id, BTreeSet<u32>)]) -> Vec<Overlap<Id>> {
    let mut overlaps = Vec::new();
    for (index, (id, sms)) in contexts.iter().enumerate() {
        for (other, theirs) in &contexts[..index] {
            let common: BTreeSet<u32> = sms.intersection(theirs).copied().collect();
            if !common.is_empty() {
                overlaps.push(Overlap {
                    between: [other.clone(), id.clone()],
                    sms: common,
                });
            }
        }
    }
    overlaps
}

/// Returns the pairs of contexts whose blocks could not be on the device at the same time. Each context is filled with
/// blocks for all SMs that it was seen to use, which may be more than its status says.
fn not_together<Id: Clone>(
    contexts: &[(Id, GreenContext)],
    observed: &[(Id, BTreeSet<u32>)],
) -> Result<Vec<Overlap<Id>>> {
    let reach = observed.iter().map(|(_, sms)| sms.len() as u32);
    let filled: Vec<(&GreenContext, u32)> = contexts
        .iter()
        .zip(reach)
        .map(|((_, context), reach)| (context, reach.max(context.sm_count())))
        .collect();
    let mut overlaps = Vec::new();
    if probe::fit_together(&filled)? {
        return Ok(overlaps);
    }
    for (index, (id, _)) in contexts.iter().enumerate() {
        for (earlier, (other, _)) in contexts[..index].iter().enumerate() {
            if !probe::fit_together(&[filled[earlier], filled[index]])? {
                overlaps.push(Overlap {
                    between: [other.clone(), id.clone()],
                    sms: BTreeSet::new(),
                });
            }
        }
    }
    Ok(overlaps)
}

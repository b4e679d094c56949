//! Verification: where each partition's blocks really run, measured on the device itself.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{PartitionMode, SmPartitionManager};
use crate::{GreenContext, GreenContextConfig, Result};

/// What [`SmPartitionManager::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification<Id> {
    /// The SMs that each context's blocks ran on, in the order of the contexts.
    pub contexts: Vec<(Id, BTreeSet<u32>)>,
    /// The SMs that blocks in the primary context ran on: all of them, those of every partition too.
    pub primary: BTreeSet<u32>,
    /// Pairs of contexts that have SMs in common. Empty in a healthy partition.
    pub overlaps: Vec<Overlap<Id>>,
    /// Contexts whose blocks ran on another number of SMs than they have.
    pub miscounted: Vec<Miscount<Id>>,
}

/// Two contexts that share SMs, of a [`Verification`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overlap<Id> {
    /// The two, in the order of the contexts.
    pub between: [Id; 2],
    /// The SMs on which both ran.
    pub sms: BTreeSet<u32>,
}

/// A context that ran on another number of SMs than it has, of a [`Verification`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Miscount<Id> {
    /// The context.
    pub id: Id,
    /// SMs that it has, as it says.
    pub sm_count: u32,
    /// SMs that its blocks ran on.
    pub observed: u32,
}

impl<Id> Verification<Id> {
    /// Whether every context has SMs of its own, and as many as it says.
    pub fn is_isolated(&self) -> bool {
        self.overlaps.is_empty() && self.miscounted.is_empty()
    }
}

impl<Id: fmt::Debug> fmt::Display for Verification<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, sms) in &self.contexts {
            writeln!(f, "{id:?} runs on {} SMs", sms.len())?;
        }
        for Overlap { between, sms } in &self.overlaps {
            let [one, other] = between;
            writeln!(f, "{one:?} and {other:?} share {} SMs", sms.len())?;
        }
        for miscount in &self.miscounted {
            let Miscount {
                id,
                sm_count,
                observed,
            } = miscount;
            writeln!(f, "{id:?} has {sm_count} SMs, but ran on {observed}")?;
        }
        write!(
            f,
            "work left in the primary context, default streams included, runs on {} SMs: on those of every partition",
            self.primary.len()
        )
    }
}

impl<Id: Clone + Eq + fmt::Debug> SmPartitionManager<Id> {
    /// Runs a small kernel in each context and in the primary one, and says on which SMs each ran.
    ///
    /// Takes a few milliseconds on an idle device, and waits for what runs there otherwise. In
    /// single-context mode all contexts overlap, and it says so. Which streams are in no partition, and what
    /// that costs, [`stream_home`](Self::stream_home) says.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver), [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn verify(&self) -> Result<Verification<Id>> {
        let all = self.names.read(|contexts| {
            let current = contexts
                .iter()
                .map(|entry| (Arc::clone(&entry.id), entry.context().clone()));
            current.collect::<Vec<_>>()
        });
        let mut contexts: Vec<(Id, BTreeSet<u32>)> = Vec::with_capacity(all.len());
        let mut overlaps = Vec::new();
        let mut miscounted = Vec::new();
        for (id, context) in all {
            let id = Id::clone(&id);
            let sms: BTreeSet<u32> = context.observed_sm_ids()?.into_iter().collect();
            let (sm_count, observed) = (context.sm_count(), sms.len() as u32);
            if observed != sm_count {
                miscounted.push(Miscount {
                    id: id.clone(),
                    sm_count,
                    observed,
                });
            }
            for (other, theirs) in &contexts {
                let common: BTreeSet<u32> = sms.intersection(theirs).copied().collect();
                if !common.is_empty() {
                    overlaps.push(Overlap {
                        between: [other.clone(), id.clone()],
                        sms: common,
                    });
                }
            }
            contexts.push((id, sms));
        }
        if self.mode == PartitionMode::Partitioned && !overlaps.is_empty() {
            log::error!("partitions of {} overlap", self.device.name());
        }
        let config = GreenContextConfig {
            sm_count: 1,
            ..GreenContextConfig::default()
        };
        let primary = GreenContext::primary(&self.device, config)?.observed_sm_ids()?;
        Ok(Verification {
            contexts,
            primary: primary.into_iter().collect(),
            overlaps,
            miscounted,
        })
    }
}

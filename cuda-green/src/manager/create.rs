//! Creating contexts all at once, from a plan for their sizes.

use std::{fmt::Debug, sync::Arc};

use super::{ContextId, Entry, SmPartitionManager, create_one::cluster_of_all, observe::Operation};
use crate::{
    device::ContextPriority,
    error::Result,
    partition::{ContextPolicy, GreenContext, GreenContextConfig},
    planner::{Demands, PartitionRequest},
};

/// 8 GiB, the memory limit of each context of a quad partition.
const QUAD_MEMORY_LIMIT: u64 = 8 << 30;

impl SmPartitionManager {
    /// Four contexts of a quarter of the device each, all at once or not at all.
    ///
    /// `Embedding` is critical and not preemptible, `Dream` low and preemptible, `Training` and `Reserved`
    /// medium and preemptible; each has a memory limit of 8 GiB. A quarter is rounded down to what the
    /// driver can give without breaking thread-block clusters; what is left over joins `Reserved`.
    ///
    /// # Errors
    /// [`Error::AlreadyPartitioned`](crate::Error::AlreadyPartitioned) where there are contexts;
    /// [`Error::InsufficientSms`](crate::Error::InsufficientSms) or
    /// [`Error::UnitsTooCoarse`](crate::Error::UnitsTooCoarse) on a device with too few SMs;
    /// [`Error::Driver`](crate::Error::Driver). Nothing is left behind then.
    pub fn init_quad_partition(&self) -> Result<()> {
        let policy = |priority, preemptible| ContextPolicy {
            priority,
            memory_limit_bytes: QUAD_MEMORY_LIMIT,
            preemptible,
        };
        let contexts = [
            (
                ContextId::Embedding,
                policy(ContextPriority::Critical, false),
            ),
            (ContextId::Dream, policy(ContextPriority::Low, true)),
            (ContextId::Training, policy(ContextPriority::Medium, true)),
            (ContextId::Reserved, policy(ContextPriority::Medium, true)),
        ];
        let contexts = contexts.map(|(id, policy)| (Arc::new(id), policy));
        self.partition(&contexts, &self.facts.equal_targets(4))
    }
}

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// Creates several contexts at once, from one split made for their sizes: all or none.
    ///
    /// Each has at least the SMs asked for, and from 13.1 on exactly those, to a multiple of 2. Where one by
    /// one the units of the split decide, the whole list is seen here, so more lists fit. The simple form of
    /// [`create_partitions`](Self::create_partitions).
    ///
    /// # Errors
    /// As [`create_partitions`](Self::create_partitions).
    pub fn create_contexts(&self, contexts: &[(Id, GreenContextConfig)]) -> Result<()> {
        for (_, config) in contexts {
            self.noting(Operation::Create, config.check())?;
        }
        let requests: Vec<PartitionRequest> = contexts
            .iter()
            .map(|(_, config)| PartitionRequest::at_least(config.sm_count))
            .collect();
        let owned = contexts
            .iter()
            .map(|(id, config)| (Arc::new(id.clone()), config.policy()));
        self.partition(&owned.collect::<Vec<_>>(), &requests)
    }

    /// Creates several contexts at once by requests of any kinds, mixed as you like: all or none.
    ///
    /// The size that each got, and which plan is in force and why, is in the status; [`plan`](Self::plan) tells it
    /// before.
    ///
    /// ```
    /// use cuda_green::{ContextPolicy, Driver, SmPartitionManager, planner::PartitionRequest};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let manager = SmPartitionManager::with_ids(&device)?;
    /// let policy = ContextPolicy::default();
    /// manager.create_partitions(&[
    ///     ("serving", PartitionRequest::at_least(60).cluster(8), policy),
    ///     ("indexing", PartitionRequest::percent(25), policy),
    ///     ("everything else", PartitionRequest::rest(), policy),
    /// ])?;
    /// let status = manager.allocation_status();
    /// let sizes: Vec<u32> = status.contexts.iter().map(|context| context.sm_count).collect();
    /// assert_eq!(sizes, [64, 32, 36]); // whole units of 8 SMs, and what they leave of the 132
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) and
    /// [`Error::ContextExists`](crate::Error::ContextExists) for what the list says,
    /// [`Error::AlreadyPartitioned`](crate::Error::AlreadyPartitioned) where there are contexts;
    /// [`Error::ClusterUnavailable`](crate::Error::ClusterUnavailable),
    /// [`Error::UnitsTooCoarse`](crate::Error::UnitsTooCoarse) and
    /// [`Error::InsufficientSms`](crate::Error::InsufficientSms) for sizes that cannot be;
    /// [`Error::Driver`](crate::Error::Driver). Nothing is left behind then.
    pub fn create_partitions(
        &self,
        partitions: &[(Id, PartitionRequest, ContextPolicy)],
    ) -> Result<()> {
        let mut contexts = Vec::with_capacity(partitions.len());
        let mut requests = Vec::with_capacity(partitions.len());
        for (id, request, policy) in partitions {
            self.noting(Operation::Create, policy.check())?;
            contexts.push((Arc::new(id.clone()), *policy));
            requests.push(*request);
        }
        self.partition(&contexts, &requests)
    }

    /// Single-context mode: every id stands for the whole device.
    pub(super) fn in_one_context(
        &self,
        contexts: &[(Arc<Id>, ContextPolicy)],
        requests: &[PartitionRequest],
    ) -> Result<Vec<Entry<Id>>> {
        let requested = Demands::of(&self.facts, requests)?.requested;
        let entry =
            |(index, ((id, policy), requested_sms)): (usize, (&(Arc<Id>, ContextPolicy), u32))| {
                let context = GreenContext::primary_for(&self.device, requested_sms, *policy)?;
                if let Some(request) = requests.get(index) {
                    cluster_of_all(&context, index, request)?;
                }
                self.entry(Arc::clone(id), context, Vec::new())
            };
        contexts
            .iter()
            .zip(requested)
            .enumerate()
            .map(entry)
            .collect()
    }
}

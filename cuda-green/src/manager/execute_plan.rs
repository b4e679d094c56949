//! Execution of a plan: one split, and a context over the pieces of each partition; all of it or nothing.

use std::{fmt::Debug, sync::Arc};

use super::{layout::Layout, named_partition::NamedPartition, state::ManagerState};
use crate::{
    device::Claim,
    error::{Error, Result},
    partition::ContextPolicy,
    planner::{Plan, SplitCall, SplitFlag, SplitStrategy},
    resource::SmResource,
};

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Makes the plan's split and all its contexts; where one fails, drops what was made.
    pub(super) fn execute(
        &self,
        claim: &Arc<Claim>,
        plan: &Plan,
        all: &SmResource,
        contexts: &[(Arc<Id>, ContextPolicy)],
    ) -> Result<(Layout, Vec<NamedPartition<Id>>)> {
        let claim = Arc::clone(claim);
        let mut layout = match (&plan.call, plan.strategy) {
            (
                SplitCall::ByCount {
                    groups, sm_count, ..
                },
                SplitStrategy::EqualGroups | SplitStrategy::Nested,
            ) => {
                let units = self.whole_units(all)?;
                let mut layout = Layout::whole(claim, self.facts, all.clone(), units);
                layout.divide(&self.device, 0, *groups, *sm_count)?;
                for sm_count in &plan.nested {
                    layout.divide_remainder(&self.device, *sm_count)?;
                }
                layout
            }
            (call, strategy) => Layout::of(claim, self.facts, strategy, call, all.execute(call)?),
        };
        let mut partitions = Vec::with_capacity(contexts.len());
        for ((id, policy), planned) in contexts.iter().zip(&plan.partitions) {
            let requested_sms = planned.requested;
            let pieces = layout
                .find(&planned.parts)
                .filter(|pieces| layout.sm_count(pieces) == planned.sm_count)
                .ok_or_else(|| {
                    self.insufficient(requested_sms.to_string(), requested_sms, Some(&layout))
                })?;
            let context = layout.create(&self.device, *policy, requested_sms, &pieces)?;
            layout.mark_taken(&pieces);
            partitions.push(self.named(Arc::clone(id), context, pieces)?);
        }
        Ok((layout, partitions))
    }

    /// Returns the number of whole units that the driver can split the device into.
    pub(super) fn whole_units(&self, all: &SmResource) -> Result<u32> {
        all.count_groups(self.facts.coscheduled(), SplitFlag::None)
    }

    /// Returns the error for requests that do not fit, with the SMs asked for and those that there are.
    pub(super) fn insufficient(
        &self,
        requests: String,
        asked: u32,
        layout: Option<&Layout>,
    ) -> Error {
        let (available, stranded) = self.remaining(layout);
        Error::InsufficientSms {
            requests,
            asked,
            available,
            stranded,
            total: self.facts.sm_count,
        }
    }
}

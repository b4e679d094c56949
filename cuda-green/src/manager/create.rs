//! Creating contexts all at once: the first plan for their sizes that the driver does not refuse is executed, all of
//! it or nothing.

use std::{fmt::Debug, sync::Arc};

use super::{
    context_key::refuse_existing, join::CLAIM_INSTEAD, layout::Layout, mode::PartitionMode,
    observe::Operation, state::ManagerState,
};
use crate::{
    device::Claim,
    error::{Error, Result},
    events::{PartitionEvent, emit},
    names::NamedPartition,
    partition::{ContextPolicy, GreenContext, GreenContextConfig},
    planner::{
        self, Demands, PartitionRequest, Plan, RefusedPlan, SplitCall, SplitFlag, SplitStrategy,
    },
    resource::{SmResource, is_topology_refusal},
};

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Creates contexts with the sizes of their configurations.
    pub(super) fn create_contexts(&self, contexts: &[(Id, GreenContextConfig)]) -> Result<()> {
        for (_, config) in contexts {
            self.noting(Operation::Create, config.check())?;
        }
        let requests: Vec<PartitionRequest> = contexts
            .iter()
            .map(|(_, config)| PartitionRequest::at_least(config.sm_count))
            .collect();
        let contexts: Vec<(Arc<Id>, ContextPolicy)> = contexts
            .iter()
            .map(|(id, config)| (Arc::new(id.clone()), config.policy()))
            .collect();
        self.create_from_plan(&contexts, &requests)
    }

    /// Creates contexts by requests.
    pub(super) fn create_partitions(
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
        self.create_from_plan(&contexts, &requests)
    }

    /// Creates all of these contexts, from one split. The caller's ids outlive the locks if this fails.
    pub(super) fn create_from_plan(
        &self,
        contexts: &[(Arc<Id>, ContextPolicy)],
        requests: &[PartitionRequest],
    ) -> Result<()> {
        let created = self.try_create(contexts, requests);
        self.noting(Operation::Create, created)?;
        self.note_partitions();
        Ok(())
    }

    fn try_create(
        &self,
        contexts: &[(Arc<Id>, ContextPolicy)],
        requests: &[PartitionRequest],
    ) -> Result<()> {
        let ids: Vec<Arc<Id>> = contexts.iter().map(|(id, _)| Arc::clone(id)).collect();
        for (index, id) in ids.iter().enumerate() {
            refuse_existing(&ids[..index], id)?;
        }
        self.refuse_where_joined("creating partitions", CLAIM_INSTEAD)?;
        let change = self.begin_change()?;
        let mut layout = change.layout();
        let existing = self.registry.len();
        if existing > 0 {
            return Err(Error::AlreadyPartitioned { contexts: existing });
        }
        if self.mode != PartitionMode::Partitioned {
            let partitions = self.in_one_context(contexts, requests)?;
            change.registry.add(partitions);
            return Ok(());
        }
        self.tidy(&mut layout);
        let claim = self.device.claim()?;
        self.device.check_mps_allows_splits()?;
        let all = self.device.sm_resource()?;
        let execute = |plan: &Plan| self.execute(&claim, plan, &all, contexts);
        let (plan, (new_layout, partitions)) = self.first_plan(requests, &all, execute)?;
        *layout = Some(Layout {
            refused: plan.refused,
            ..new_layout
        });
        change.registry.add(partitions);
        Ok(())
    }

    /// Returns the plan that would be in force, and creates nothing.
    pub(super) fn plan(&self, requests: &[PartitionRequest]) -> Result<Plan> {
        if self.mode != PartitionMode::Partitioned {
            return Err(Error::NotPartitioned {
                what: "a plan",
                instead: "every id stands for all SMs",
            });
        }
        self.device.check_mps_allows_splits()?;
        let all = self.device.sm_resource()?;
        let dry_run = |plan: &Plan| all.announced_sizes(&plan.call);
        let (plan, _) = self.first_plan(requests, &all, dry_run)?;
        Ok(plan)
    }

    /// Returns the first plan for which the driver does not refuse the attempt (915), with those that it refused
    /// before, and the attempt's result. `plan` and `create_partitions` choose the same plan by this.
    pub(super) fn first_plan<T>(
        &self,
        requests: &[PartitionRequest],
        all: &SmResource,
        attempt: impl Fn(&Plan) -> Result<T>,
    ) -> Result<(Plan, T)> {
        let mut refused = Vec::new();
        let mut refusal = None;
        let count = |sm_count, flag| all.count_groups(sm_count, flag);
        for plan in planner::plans(&self.facts, requests, &count)? {
            match attempt(&plan) {
                Ok(done) => return Ok((Plan { refused, ..plan }, done)),
                Err(error) if is_topology_refusal(&error) => {
                    log::info!("{} was refused: {error}", plan.strategy);
                    emit(|| PartitionEvent::PlanRefused {
                        device: self.device.ordinal(),
                        strategy: plan.strategy,
                        error: error.to_string(),
                    });
                    RefusedPlan::note(&mut refused, plan.strategy);
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let refusal = refusal.unwrap_or_else(|| {
            self.insufficient(planner::in_words(requests), self.facts.sm_count, None)
        });
        Err(planner::error_of_refused(
            &self.facts,
            requests,
            &count,
            refusal,
        )?)
    }

    /// Makes the plan's split and all its contexts; where one fails, drops what was made.
    fn execute(
        &self,
        claim: &Arc<Claim>,
        plan: &Plan,
        all: &SmResource,
        contexts: &[(Arc<Id>, ContextPolicy)],
    ) -> Result<(Layout, Vec<NamedPartition<Id>>)> {
        let mut layout = self.split(claim, plan, all)?;
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

    /// Makes the plan's split.
    pub(super) fn split(
        &self,
        claim: &Arc<Claim>,
        plan: &Plan,
        all: &SmResource,
    ) -> Result<Layout> {
        let claim = Arc::clone(claim);
        Ok(match (&plan.call, plan.strategy) {
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
        })
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

    /// Returns a partition under each name that stands for the whole device (single-context mode).
    fn in_one_context(
        &self,
        contexts: &[(Arc<Id>, ContextPolicy)],
        requests: &[PartitionRequest],
    ) -> Result<Vec<NamedPartition<Id>>> {
        let requested = Demands::of(&self.facts, requests)?.requested;
        let entry =
            |(index, ((id, policy), requested_sms)): (usize, (&(Arc<Id>, ContextPolicy), u32))| {
                let context = GreenContext::primary_for(&self.device, requested_sms, *policy)?;
                if let Some(request) = requests.get(index) {
                    refuse_cluster(&context, index, request)?;
                }
                self.named(Arc::clone(id), context, Vec::new())
            };
        contexts
            .iter()
            .zip(requested)
            .enumerate()
            .map(entry)
            .collect()
    }
}

/// Refuses a request for a cluster that the device as a whole does not run (single-context mode).
pub(super) fn refuse_cluster(
    context: &GreenContext,
    index: usize,
    request: &PartitionRequest,
) -> Result<()> {
    let best = context.max_cluster_size();
    if request.cluster > best {
        return Err(Error::ClusterUnavailable {
            text: request.to_string(),
            request: index,
            asked: request.cluster,
            best,
            why: "the whole device runs no larger one".into(),
        });
    }
    Ok(())
}

//! Making contexts: a plan put into force, all of it or nothing.

use std::{fmt::Debug, sync::Arc};

use super::{
    Entry, PartitionMode, SmPartitionManager, layout::Layout, observe::Operation, refuse_existing,
};
use crate::{
    device::Claim,
    error::{Error, Result},
    events::{PartitionEvent, emit},
    partition::ContextPolicy,
    planner::{self, PartitionRequest, Plan, RefusedPlan, SplitCall, SplitStrategy},
    resource::{self, SmResource, Split, is_topology_refusal},
};

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// One split for all of these contexts at once. The caller's ids outlive the locks, where nothing comes of it.
    pub(super) fn partition(
        &self,
        contexts: &[(Arc<Id>, ContextPolicy)],
        requests: &[PartitionRequest],
    ) -> Result<()> {
        let made = self.partition_at_once(contexts, requests);
        self.noting(Operation::Create, made)?;
        self.note_partitions();
        Ok(())
    }

    fn partition_at_once(
        &self,
        contexts: &[(Arc<Id>, ContextPolicy)],
        requests: &[PartitionRequest],
    ) -> Result<()> {
        let ids: Vec<Arc<Id>> = contexts.iter().map(|(id, _)| Arc::clone(id)).collect();
        for (index, id) in ids.iter().enumerate() {
            refuse_existing(&ids[..index], id)?;
        }
        let _changing = self.change()?;
        let mut layout = self.layout();
        let existing = self.names.read(<[_]>::len);
        if existing > 0 {
            return Err(Error::AlreadyPartitioned { contexts: existing });
        }
        if self.mode != PartitionMode::Partitioned {
            self.names.add(self.in_one_context(contexts, requests)?);
            return Ok(());
        }
        self.tidied(&mut layout);
        let claim = self.device.claim()?;
        self.device.check_mps_allows_splits()?;
        let all = self.device.sm_resource()?;
        let execute = |plan: &Plan| self.execute(&claim, plan, &all, contexts);
        let (plan, (new_layout, entries)) = self.first_plan(requests, &all, execute)?;
        *layout = Some(Layout {
            refused: plan.refused,
            ..new_layout
        });
        self.names.add(entries);
        Ok(())
    }

    /// The first plan for which the driver does not refuse the attempt (915), with those that it refused before,
    /// and what the attempt gave. What is told beforehand and what is made come to the same plan by this.
    pub(super) fn first_plan<T>(
        &self,
        requests: &[PartitionRequest],
        all: &SmResource,
        attempt: impl Fn(&Plan) -> Result<T>,
    ) -> Result<(Plan, T)> {
        let mut refused = Vec::new();
        let mut refusal = None;
        let count = self.count_groups(all);
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
        Err(planner::of_all_plans(
            &self.facts,
            requests,
            &count,
            refusal,
        )?)
    }

    /// Makes the plan's split and all its contexts; drops what was made if one fails.
    fn execute(
        &self,
        claim: &Arc<Claim>,
        plan: &Plan,
        all: &SmResource,
        contexts: &[(Arc<Id>, ContextPolicy)],
    ) -> Result<(Layout, Vec<Entry<Id>>)> {
        let claim = Arc::clone(claim);
        let mut layout = match (&plan.call, plan.strategy) {
            (
                SplitCall::ByCount {
                    groups, min_count, ..
                },
                SplitStrategy::EqualGroups | SplitStrategy::Nested,
            ) => {
                let units = self.whole_units(all)?;
                let mut layout = Layout::whole(claim, self.facts, all.clone(), units);
                layout.divide(&self.device, 0, *groups, *min_count)?;
                for sm_count in &plan.nested {
                    layout.divide_remainder(&self.device, *sm_count)?;
                }
                layout
            }
            (call, strategy) => {
                Layout::of(claim, self.facts, strategy, call, self.split(call, all)?)
            }
        };
        let mut entries = Vec::with_capacity(contexts.len());
        for ((id, policy), planned) in contexts.iter().zip(&plan.partitions) {
            let requested = planned.requested;
            let pieces = layout
                .find(&planned.parts)
                .filter(|pieces| layout.sm_count(pieces) == planned.sm_count)
                .ok_or_else(|| {
                    self.insufficient(requested.to_string(), requested, Some(&layout))
                })?;
            let context = layout.create(&self.device, *policy, requested, &pieces)?;
            layout.mark_taken(&pieces);
            entries.push(self.entry(Arc::clone(id), context, pieces)?);
        }
        Ok((layout, entries))
    }

    pub(super) fn count_groups<'a>(
        &'a self,
        all: &'a SmResource,
    ) -> impl Fn(u32, bool) -> Result<u32> + 'a {
        |min, fine| resource::count_groups(self.device.driver(), all, min, fine)
    }

    pub(super) fn whole_units(&self, all: &SmResource) -> Result<u32> {
        self.count_groups(all)(self.facts.coscheduled(), false)
    }

    pub(super) fn split(&self, call: &SplitCall, all: &SmResource) -> Result<Split> {
        let driver = self.device.driver();
        match call {
            SplitCall::Structured(groups) => resource::split_structured(driver, all, groups),
            SplitCall::ByCount {
                groups,
                min_count,
                fine,
            } => resource::split_by_count(driver, all, *groups, *min_count, *fine),
        }
    }

    /// What was asked, in words and in SMs, beside what there is.
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

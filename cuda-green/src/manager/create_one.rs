//! Creating one context, out of what is left of the split in force.

use std::{fmt::Debug, sync::Arc};

use super::{
    context_key::refuse_existing, create::refuse_cluster, join::CLAIM_INSTEAD, label::label,
    layout::Layout, mode::PartitionMode, observe::Operation, state::ManagerState,
};
use crate::{
    error::{Error, Result},
    events::{PartitionEvent, emit},
    partition::{ContextPolicy, GreenContext, GreenContextConfig},
    planner::{
        self, Choice, CountedSplit, Demands, PartitionRequest, Plan, RefusedPlan, SmRequest,
        SplitFlag, SplitStrategy,
    },
    resource::is_topology_refusal,
};

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Creates one context with the size of its configuration.
    pub(super) fn create_context(
        &self,
        id: Id,
        config: GreenContextConfig,
    ) -> Result<GreenContext> {
        self.noting(Operation::Create, config.check())?;
        self.create_partition(
            id,
            PartitionRequest::at_least(config.sm_count),
            config.policy(),
        )
    }

    /// Creates one context by a request.
    pub(super) fn create_partition(
        &self,
        id: Id,
        request: PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<GreenContext> {
        let id = Arc::new(id); // outlives the locks if this fails
        let made = self.create_one(&id, request, policy);
        let context = self.noting(Operation::Create, made)?;
        emit(|| PartitionEvent::PartitionCreated {
            device: self.device.ordinal(),
            partition: label(&*id),
            sms: context.sm_count(),
        });
        Ok(context)
    }

    fn create_one(
        &self,
        id: &Arc<Id>,
        request: PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<GreenContext> {
        policy.check()?;
        self.refuse_where_joined("creating a partition", CLAIM_INSTEAD)?;
        let (change, ()) = self.begin_change_of(|ids| refuse_existing(ids, id))?;
        let mut layout = change.layout();
        self.tidy(&mut layout);
        let demands = Demands::of(&self.facts, &[request]).map_err(|error| match error {
            Error::InsufficientSms {
                requests, asked, ..
            } => self.insufficient(requests, asked, layout.as_ref()),
            other => other,
        })?;
        let (context, pieces) = if self.mode == PartitionMode::Partitioned {
            let mut source = match layout.take() {
                Some(source) => source,
                None => self.source(&request)?,
            };
            let made = self.create_from(&mut source, &demands, &request, policy);
            match &made {
                Ok((_, pieces)) => source.mark_taken(pieces),
                // What was split for it becomes whole again.
                Err(_) => source
                    .tidy()
                    .unwrap_or_else(|error| log::error!("destroying a scaffold context: {error}")),
            }
            if source.is_in_use() {
                *layout = Some(source);
            }
            made?
        } else {
            (self.create_primary(&demands, request, policy)?, Vec::new())
        };
        let partition = self.named(Arc::clone(id), context.clone(), pieces)?;
        change.registry.add([partition]);
        Ok(context)
    }

    /// Creates a context of the whole device that is promised some of its SMs, and shares all (single-context mode).
    fn create_primary(
        &self,
        demands: &Demands,
        request: PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<GreenContext> {
        let promised = self
            .registry
            .each_in_force(|_, context| context.requested_sms());
        let promised: u32 = promised.iter().sum();
        let available = self.facts.sm_count.saturating_sub(promised);
        let requested_sms = match request.sms {
            SmRequest::Share { at_least, .. } => available.max(at_least).max(1),
            SmRequest::Rest => available.max(1),
            _ => demands.requested.first().copied().unwrap_or(1),
        };
        if requested_sms > available {
            return Err(Error::InsufficientSms {
                requests: request.to_string(),
                asked: requested_sms,
                available,
                stranded: 0,
                total: self.facts.sm_count,
            });
        }
        let context = GreenContext::primary_for(&self.device, requested_sms, policy)?;
        refuse_cluster(&context, 0, &request)?;
        Ok(context)
    }

    /// Creates a context over free pieces of the layout, which it splits where need be; returns the pieces.
    fn create_from(
        &self,
        source: &mut Layout,
        demands: &Demands,
        request: &PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<(GreenContext, Vec<usize>)> {
        let requested_sms = demands.requested.first().copied().unwrap_or(1);
        let choice = source.choose_for(request, requested_sms, request.cluster);
        let Some(choice) = choice else {
            let least = match request.sms {
                SmRequest::Share { at_least, .. } => at_least.max(1),
                SmRequest::Rest => 1,
                _ => requested_sms,
            };
            return Err(match source.choose_for(request, requested_sms, 1) {
                Some(choice) => Error::ClusterUnavailable {
                    text: request.to_string(),
                    request: 0,
                    asked: request.cluster,
                    best: source.max_cluster(&choice),
                    why: "no more of the free SMs are co-scheduled".into(),
                },
                None => self.insufficient(request.to_string(), least, Some(source)),
            });
        };
        let sm_count = source.size(&choice);
        // A target is no less than a unit, but where pieces neither merge nor divide, they may be far larger.
        let least = self.facts.capabilities.granularity.min.max(request.cluster);
        let is_over = matches!(request.sms, SmRequest::Target(_) | SmRequest::Percent(_))
            && sm_count > requested_sms.max(least);
        if is_over || !demands.is_exact(0, sm_count) {
            return Err(Error::UnitsTooCoarse {
                requests: request.to_string(),
                asked: requested_sms,
                unit: self.facts.unit().0,
                total: self.facts.sm_count,
                help: "what is free does not come in that size; `create_partitions` splits the device for it",
            });
        }
        let pieces = match choice {
            Choice::Pieces(pieces) => source.undivided(&self.device, pieces)?,
            Choice::SplitOff { piece, sm_count } => {
                source.divide(&self.device, piece, 1, sm_count)?
            }
            Choice::CutOut { pieces, sm_count } => {
                match source.cut_out(&self.device, &pieces, sm_count) {
                    // The chip does not allow it: more than was asked, then.
                    Err(error) if is_topology_refusal(&error) && !request.exact => pieces,
                    cut => cut?,
                }
            }
        };
        if source.sm_count(&pieces) < sm_count {
            return Err(self.insufficient(request.to_string(), sm_count, Some(source)));
        }
        let requested_sms = match request.sms {
            SmRequest::Share { .. } | SmRequest::Rest => sm_count,
            _ => requested_sms,
        };
        let context = source.create(&self.device, policy, requested_sms, &pieces)?;
        Ok((context, pieces))
    }

    /// Makes the split for contexts that are created one by one, which the first of them decides: units that merge, or
    /// larger groups where only those have its size; where nothing merges, the whole device, to be split step by step.
    fn source(&self, first: &PartitionRequest) -> Result<Layout> {
        let claim = self.device.claim()?;
        self.device.check_mps_allows_splits()?;
        let all = self.device.sm_resource()?;
        if !self.facts.capabilities.merge {
            let units = self.whole_units(&all)?;
            return Ok(Layout::whole(claim, self.facts, all, units));
        }
        let (unit, flag) = self.facts.unit();
        let count = |sm_count, flag| all.count_groups(sm_count, flag);
        let mut refused = Vec::new();
        let rest = PartitionRequest::rest();
        // With the rest, so that this is in units too; or alone; or in units whatever the size.
        let lists: [&[PartitionRequest]; 3] = [&[*first, rest], &[*first], &[rest]];
        for requests in lists.into_iter().filter(|_| flag == SplitFlag::None) {
            let plans = match planner::plans(&self.facts, requests, &count) {
                Err(error @ (Error::Driver { .. } | Error::Poisoned { .. })) => return Err(error),
                plans => plans.unwrap_or_default(),
            };
            for Plan { strategy, call, .. } in plans {
                let in_units = matches!(
                    strategy,
                    SplitStrategy::StructuredUnits | SplitStrategy::MergedUnits
                );
                if !in_units {
                    continue;
                }
                match all.execute(&call) {
                    Err(error) if is_topology_refusal(&error) => {
                        emit(|| PartitionEvent::PlanRefused {
                            device: self.device.ordinal(),
                            strategy,
                            error: error.to_string(),
                        });
                        RefusedPlan::note(&mut refused, strategy);
                    }
                    split => {
                        let layout = Layout::of(claim, self.facts, strategy, &call, split?);
                        return Ok(Layout { refused, ..layout });
                    }
                }
            }
        }
        let units = CountedSplit::of(self.facts.sm_count, unit, flag, &count)?;
        let split = all.execute(&units.call())?;
        Ok(Layout {
            refused,
            ..Layout::of(claim, self.facts, units.strategy(), &units.call(), split)
        })
    }
}

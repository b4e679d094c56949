//! Contexts created one by one, out of what is left of the split in force.

use std::{fmt::Debug, sync::Arc};

use super::{
    PartitionMode, SmPartitionManager, label, layout::Layout, observe::Operation, refuse_existing,
};
use crate::{
    error::{Error, Result},
    events::{PartitionEvent, emit},
    partition::{ContextPolicy, GreenContext, GreenContextConfig},
    planner::{
        self, Choice, Demands, PartitionRequest, Plan, RefusedPlan, SmRequest, SplitCall,
        SplitStrategy,
    },
    resource::{self, is_topology_refusal},
};

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// Creates one context with at least the SMs asked for, out of what is left. The simple form of
    /// [`create_partition`](Self::create_partition).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::ContextExists`], [`Error::InsufficientSms`],
    /// [`Error::Driver`]. Nothing is left behind then.
    pub fn create_context(&self, id: Id, config: GreenContextConfig) -> Result<GreenContext> {
        self.noting(Operation::Create, config.check())?;
        self.create_partition(
            id,
            PartitionRequest::at_least(config.sm_count),
            config.policy(),
        )
    }

    /// Creates one context by a request, out of what is left: a share or the rest is all that one context can
    /// still have.
    ///
    /// Contexts created one by one are as disjoint as those of one call. On CUDA 12.4, which cannot merge,
    /// a free part of the device that is too large is split, within a scaffold context where need be, and
    /// parts become whole again when all of them are free. Elsewhere they are made of the units of one split,
    /// of whole ones on compute capability 9.0 and later. From 13.1 on units are cut to the size that was asked, where
    /// they do not come to it, within a scaffold context over them: such a context takes part in no rebalance, and what
    /// is left of the units is for small ones. (By the 13.1 header, and on the simulated driver; no such driver was at
    /// hand.)
    ///
    /// Another name's context may have had some of the SMs in an earlier rebalance. What its old handles submitted
    /// there has ended when this returns, since the driver waits for all work on the device when it creates a green
    /// context (seen on an H200, driver 580; no contract of the driver's). What they submit there later shares the
    /// SMs: drop them, and call [`release_retired`](Self::release_retired), before names are created over such SMs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::ContextExists`], [`Error::InsufficientSms`];
    /// [`Error::ClusterUnavailable`] where only SMs are left that do not run the cluster demanded, and
    /// [`Error::UnitsTooCoarse`] where they do not come in the target's or the exact size; [`Error::Driver`].
    /// Nothing is left behind then.
    pub fn create_partition(
        &self,
        id: Id,
        request: PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<GreenContext> {
        let id = Arc::new(id); // outlives the locks, where nothing comes of it
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
        let (_changing, ()) = self.change_by(|ids| refuse_existing(ids, id))?;
        let mut layout = self.layout();
        self.tidied(&mut layout);
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
        let entry = self.entry(Arc::clone(id), context.clone(), pieces)?;
        self.names.add([entry]);
        Ok(context)
    }

    /// Single-context mode: SMs are counted as promised, and shared by all.
    fn create_primary(
        &self,
        demands: &Demands,
        request: PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<GreenContext> {
        let promised: u32 = self.names.read(|contexts| {
            contexts
                .iter()
                .map(|entry| entry.context().requested_sms())
                .sum()
        });
        let available = self.facts.sm_count.saturating_sub(promised);
        let asked = match request.sms {
            SmRequest::Share { at_least, .. } => available.max(at_least).max(1),
            SmRequest::Rest => available.max(1),
            _ => demands.requested.first().copied().unwrap_or(1),
        };
        if asked > available {
            return Err(Error::InsufficientSms {
                requests: request.to_string(),
                asked,
                available,
                stranded: 0,
                total: self.facts.sm_count,
            });
        }
        let context = GreenContext::primary_for(&self.device, asked, policy)?;
        cluster_of_all(&context, 0, &request)?;
        Ok(context)
    }

    fn create_from(
        &self,
        source: &mut Layout,
        demands: &Demands,
        request: &PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<(GreenContext, Vec<usize>)> {
        let nominal = demands.requested.first().copied().unwrap_or(1);
        let choice = source.choose_for(request, nominal, request.cluster);
        let Some(choice) = choice else {
            let asked = match request.sms {
                SmRequest::Share { at_least, .. } => at_least.max(1),
                SmRequest::Rest => 1,
                _ => nominal,
            };
            return Err(match source.choose_for(request, nominal, 1) {
                Some(choice) => Error::ClusterUnavailable {
                    text: request.to_string(),
                    request: 0,
                    asked: request.cluster,
                    best: source.max_cluster(&choice),
                    why: "of what is free, no more is together".into(),
                },
                None => self.insufficient(request.to_string(), asked, Some(source)),
            });
        };
        let sm_count = source.size(&choice);
        // A target is no less than a unit, but where pieces neither merge nor divide, they may be far larger.
        let unit = self.facts.capabilities.granularity.min.max(request.cluster);
        let is_over = matches!(request.sms, SmRequest::Target(_) | SmRequest::Percent(_))
            && sm_count > nominal.max(unit);
        if is_over || !demands.is_exact(0, sm_count) {
            return Err(Error::UnitsTooCoarse {
                requests: request.to_string(),
                asked: nominal,
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
        let requested = match request.sms {
            SmRequest::Share { .. } | SmRequest::Rest => sm_count,
            _ => nominal,
        };
        let context = source.create(&self.device, policy, requested, &pieces)?;
        Ok((context, pieces))
    }

    /// The split that contexts created one by one draw from, for the first of them: units that merge, or larger
    /// groups where only those come to its size; where nothing merges, the whole device to be split step by step.
    fn source(&self, first: &PartitionRequest) -> Result<Layout> {
        let claim = self.device.claim()?;
        self.device.check_mps_allows_splits()?;
        let all = self.device.sm_resource()?;
        if !self.facts.capabilities.merge {
            let units = self.whole_units(&all)?;
            return Ok(Layout::whole(claim, self.facts, all, units));
        }
        let (unit, fine) = self.facts.unit();
        let mut refused = Vec::new();
        let rest = PartitionRequest::rest();
        // With what it leaves, so that this is in units, too; or alone; or whatever comes to no size here.
        let lists: [&[PartitionRequest]; 3] = [&[*first, rest], &[*first], &[rest]];
        for requests in lists.into_iter().filter(|_| !fine) {
            let count = self.count_groups(&all);
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
                match self.split(&call, &all) {
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
        let groups = resource::count_groups(self.device.driver(), &all, unit, fine)?;
        let strategy = if fine {
            SplitStrategy::MergedFineUnits
        } else {
            SplitStrategy::MergedUnits
        };
        let call = SplitCall::ByCount {
            groups,
            min_count: unit,
            fine,
        };
        let split = self.split(&call, &all)?;
        Ok(Layout {
            refused,
            ..Layout::of(claim, self.facts, strategy, &call, split)
        })
    }
}

/// In single-context mode, whether the device as a whole runs the cluster that a request demands.
pub(super) fn cluster_of_all(
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

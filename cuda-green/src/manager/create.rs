//! Creating contexts: all at once from a plan for their sizes, or one by one out of what is left.

use std::fmt::Debug;

use cuda_green_sys::CUresult;

use super::{ContextId, Entry, PartitionMode, SmPartitionManager, layout::Layout};
use crate::{
    ContextPriority, Error, GreenContext, GreenContextConfig, Result,
    planner::{
        self, Choice, Demands, PartitionRequest, Plan, RefusedPlan, SplitCall, SplitStrategy,
    },
    resource::{self, SmResource, Split},
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
    /// [`Error::AlreadyPartitioned`] where there are contexts; [`Error::InsufficientSms`] or
    /// [`Error::UnitsTooCoarse`] on a device with too few SMs; [`Error::Driver`]. Nothing is left behind
    /// then.
    pub fn init_quad_partition(&self) -> Result<()> {
        let config = |priority, preemptible| GreenContextConfig {
            sm_count: 0, // what the plan asks for
            priority,
            memory_limit_bytes: QUAD_MEMORY_LIMIT,
            preemptible,
        };
        let contexts = [
            (
                ContextId::Embedding,
                config(ContextPriority::Critical, false),
            ),
            (ContextId::Dream, config(ContextPriority::Low, true)),
            (ContextId::Training, config(ContextPriority::Medium, true)),
            (ContextId::Reserved, config(ContextPriority::Medium, true)),
        ];
        self.partition(&contexts, &self.facts.equal_targets(4))
    }
}

impl<Id: Copy + Eq + Debug> SmPartitionManager<Id> {
    /// Creates one context with at least the SMs asked for, out of what is left.
    ///
    /// Contexts created one by one are as disjoint as those of one call. On CUDA 12.4, which cannot merge,
    /// a free part of the device that is too large is split, within a scaffold context where need be, and
    /// parts become whole again when all of them are free.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::ContextExists`], [`Error::InsufficientSms`],
    /// [`Error::Driver`]. Nothing is left behind then.
    pub fn create_context(&self, id: Id, config: GreenContextConfig) -> Result<GreenContext> {
        config.check()?;
        let mut layout = self.change();
        if self.find(id).is_some() {
            return Err(Error::ContextExists {
                id: format!("{id:?}"),
            });
        }
        let (context, pieces) = if self.mode == PartitionMode::Partitioned {
            if config.sm_count > self.facts.sm_count {
                return Err(self.insufficient(config.sm_count, layout.as_ref()));
            }
            self.create_partition(&mut layout, config)?
        } else {
            let promised: u32 = self.read(|contexts| {
                contexts
                    .iter()
                    .map(|entry| entry.context().requested_sms())
                    .sum()
            });
            let available = self.facts.sm_count.saturating_sub(promised);
            if config.sm_count > available {
                return Err(Error::InsufficientSms {
                    asked: config.sm_count,
                    available,
                    stranded: 0,
                    total: self.facts.sm_count,
                });
            }
            (GreenContext::primary(&self.device, config)?, Vec::new())
        };
        self.write(|contexts| contexts.push(Entry::new(id, context.clone(), pieces)));
        Ok(context)
    }

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
            config.check()?;
        }
        let requests: Vec<PartitionRequest> = contexts
            .iter()
            .map(|(_, config)| PartitionRequest::at_least(config.sm_count))
            .collect();
        self.partition(contexts, &requests)
    }

    /// Creates several contexts at once by requests of any kinds, mixed as you like: all or none.
    ///
    /// The request decides the size; the `sm_count` of the configuration plays no part. What each got, and
    /// which plan is in force and why, is in the status; [`plan`](Self::plan) tells it before.
    ///
    /// ```
    /// use cuda_green::{Driver, GreenContextConfig, SmPartitionManager, planner::PartitionRequest};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let manager: SmPartitionManager<&str> = SmPartitionManager::with_ids(&device)?;
    /// let config = GreenContextConfig::default();
    /// manager.create_partitions(&[
    ///     ("serving", PartitionRequest::at_least(60).cluster(8), config),
    ///     ("indexing", PartitionRequest::percent(25), config),
    ///     ("everything else", PartitionRequest::rest(), config),
    /// ])?;
    /// let status = manager.allocation_status();
    /// let sizes: Vec<u32> = status.contexts.iter().map(|context| context.sm_count).collect();
    /// assert_eq!(sizes, [64, 32, 36]); // whole units of 8 SMs, and what they leave of the 132
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] and [`Error::ContextExists`] for what the list says,
    /// [`Error::AlreadyPartitioned`] where there are contexts; [`Error::ClusterUnavailable`],
    /// [`Error::UnitsTooCoarse`] and [`Error::InsufficientSms`] for sizes that cannot be;
    /// [`Error::Driver`]. Nothing is left behind then.
    pub fn create_partitions(
        &self,
        partitions: &[(Id, PartitionRequest, GreenContextConfig)],
    ) -> Result<()> {
        let mut contexts = Vec::with_capacity(partitions.len());
        let mut requests = Vec::with_capacity(partitions.len());
        for (id, request, config) in partitions {
            GreenContextConfig {
                sm_count: 1,
                ..*config
            }
            .check()?;
            contexts.push((*id, *config));
            requests.push(*request);
        }
        self.partition(&contexts, &requests)
    }

    /// One split for all of these contexts at once.
    fn partition(
        &self,
        contexts: &[(Id, GreenContextConfig)],
        requests: &[PartitionRequest],
    ) -> Result<()> {
        for (index, (id, _)) in contexts.iter().enumerate() {
            if contexts
                .iter()
                .take(index)
                .any(|(earlier, _)| earlier == id)
            {
                return Err(Error::ContextExists {
                    id: format!("{id:?}"),
                });
            }
        }
        let mut layout = self.change();
        let existing = self.read(|contexts| contexts.len());
        if existing > 0 {
            return Err(Error::AlreadyPartitioned { contexts: existing });
        }
        if self.mode != PartitionMode::Partitioned {
            let entries = self.in_one_context(contexts, requests)?;
            self.write(|contexts| *contexts = entries);
            return Ok(());
        }
        let all = self.device.sm_resource()?;
        let mut refused = Vec::new();
        let mut refusal = None;
        let count = self.count_groups(&all);
        for plan in planner::plans(&self.facts, requests, &count)? {
            match self.execute(&plan, &all, contexts) {
                Ok((new_layout, entries)) => {
                    *layout = Some(Layout {
                        refused,
                        ..new_layout
                    });
                    self.write(|contexts| *contexts = entries);
                    return Ok(());
                }
                Err(error) if is_topology_refusal(&error) => {
                    log::info!("{} was refused: {error}", plan.strategy);
                    RefusedPlan::note(&mut refused, plan.strategy);
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let refusal = refusal.unwrap_or_else(|| self.insufficient(self.facts.sm_count, None));
        Err(planner::of_all_plans(
            &self.facts,
            requests,
            &count,
            refusal,
        )?)
    }

    /// Single-context mode: every id stands for the whole device.
    fn in_one_context(
        &self,
        contexts: &[(Id, GreenContextConfig)],
        requests: &[PartitionRequest],
    ) -> Result<Vec<Entry<Id>>> {
        let requested = Demands::of(&self.facts, requests)?.requested().to_vec();
        let entry = |(index, ((id, config), sm_count)): (usize, (&(Id, _), u32))| {
            let config = GreenContextConfig {
                sm_count,
                ..*config
            };
            let context = GreenContext::primary(&self.device, config)?;
            let (best, asked) = (context.max_cluster_size(), requests.get(index));
            match asked.map_or(1, |request| request.cluster) {
                asked if asked > best => Err(Error::ClusterUnavailable {
                    request: index,
                    asked,
                    best,
                    why: "the whole device runs no larger one".into(),
                }),
                _ => Ok(Entry::new(*id, context, Vec::new())),
            }
        };
        contexts
            .iter()
            .zip(requested)
            .enumerate()
            .map(entry)
            .collect()
    }

    /// Makes the plan's split and all its contexts; drops what was made if one fails.
    fn execute(
        &self,
        plan: &Plan,
        all: &SmResource,
        contexts: &[(Id, GreenContextConfig)],
    ) -> Result<(Layout, Vec<Entry<Id>>)> {
        let mut layout = match (&plan.call, plan.strategy) {
            (
                SplitCall::ByCount {
                    groups, min_count, ..
                },
                SplitStrategy::EqualGroups | SplitStrategy::Nested,
            ) => {
                let mut layout = Layout::whole(self.facts, *all, self.whole_units(all)?);
                layout.divide(&self.device, 0, *groups, *min_count)?;
                for sm_count in &plan.nested {
                    layout.divide_remainder(&self.device, *sm_count)?;
                }
                layout
            }
            (call, strategy) => Layout::of(self.facts, strategy, call, self.split(call, all)?),
        };
        let mut entries = Vec::with_capacity(contexts.len());
        for ((id, config), planned) in contexts.iter().zip(&plan.partitions) {
            let requested = planned.requested;
            let pieces = layout
                .find(&planned.parts)
                .filter(|pieces| layout.sm_count(pieces) == planned.sm_count)
                .ok_or_else(|| self.insufficient(requested, Some(&layout)))?;
            let config = GreenContextConfig {
                sm_count: requested,
                ..*config
            };
            let context = layout.create(&self.device, config, requested, &pieces)?;
            layout.mark_taken(&pieces);
            entries.push(Entry::new(*id, context, pieces));
        }
        Ok((layout, entries))
    }

    /// One context out of the split in force, which is made here if there is none.
    fn create_partition(
        &self,
        layout: &mut Option<Layout>,
        config: GreenContextConfig,
    ) -> Result<(GreenContext, Vec<usize>)> {
        let mut source = match layout.take() {
            Some(source) => source,
            None => self.units()?,
        };
        let made = self.create_from(&mut source, config);
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
        made
    }

    fn create_from(
        &self,
        source: &mut Layout,
        config: GreenContextConfig,
    ) -> Result<(GreenContext, Vec<usize>)> {
        let asked = config.sm_count;
        let pieces = match source.choose(asked) {
            Some(Choice::Pieces(pieces)) => source.undivided(&self.device, pieces)?,
            Some(Choice::SplitOff { piece, sm_count }) => {
                source.divide(&self.device, piece, 1, sm_count)?
            }
            None => return Err(self.insufficient(asked, Some(source))),
        };
        if source.sm_count(&pieces) < asked {
            return Err(self.insufficient(asked, Some(source)));
        }
        Ok((source.create(&self.device, config, asked, &pieces)?, pieces))
    }

    /// The split that contexts created one by one draw from: units that merge or, where nothing merges, the
    /// whole device to be split step by step.
    fn units(&self) -> Result<Layout> {
        let all = self.device.sm_resource()?;
        if !self.facts.capabilities.merge {
            return Ok(Layout::whole(self.facts, all, self.whole_units(&all)?));
        }
        let (unit, fine) = self.facts.unit();
        let groups = resource::count_groups(self.device.driver(), &all, unit, fine)?;
        let mut refused = Vec::new();
        if self.facts.capabilities.structured_split
            && !fine
            && let Some(units) = planner::whole_in_units(&self.facts, groups)
        {
            let (call, strategy) = (SplitCall::Structured(units), SplitStrategy::StructuredUnits);
            match self.split(&call, &all) {
                Err(error) if is_topology_refusal(&error) => {
                    RefusedPlan::note(&mut refused, strategy);
                }
                split => return Ok(Layout::of(self.facts, strategy, &call, split?)),
            }
        }
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
            ..Layout::of(self.facts, strategy, &call, split)
        })
    }

    pub(super) fn count_groups<'a>(
        &'a self,
        all: &'a SmResource,
    ) -> impl Fn(u32, bool) -> Result<u32> + 'a {
        |min, fine| resource::count_groups(self.device.driver(), all, min, fine)
    }

    fn whole_units(&self, all: &SmResource) -> Result<u32> {
        self.count_groups(all)(self.facts.coscheduled(), false)
    }

    fn split(&self, call: &SplitCall, all: &SmResource) -> Result<Split> {
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

    pub(super) fn insufficient(&self, asked: u32, layout: Option<&Layout>) -> Error {
        let (available, stranded) = self.remaining(layout);
        Error::InsufficientSms {
            asked,
            available,
            stranded,
            total: self.facts.sm_count,
        }
    }
}

/// Whether the driver refused a split or a merge for what the chip looks like, so that another may work.
pub(super) fn is_topology_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Driver {
            code: CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
            ..
        }
    )
}

//! The partition manager: disjoint shares of one device under names.
//!
//! All partitions in force come from one split. A context takes pieces of it and gives them back when it
//! is destroyed; when the last one is gone, so is the split.

mod containment;
mod exchange;
mod generation;
mod kept;
mod layout;
mod memory;
mod partition_graph;
mod partition_stream;
mod rebalance;
mod status;
mod verify;

use std::{
    fmt::Debug,
    sync::{Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicUsize},
};

use cuda_green_sys::CUresult;

pub use containment::StreamHome;
pub use exchange::HandOff;
use generation::{Entry, Generation};
pub use kept::GREEN_CONTEXT_BYTES;
use layout::Layout;
pub use partition_graph::PartitionGraph;
pub use partition_stream::PartitionStream;
pub use rebalance::RebalanceHint;
pub use status::{AllocationStatus, ContextId, ContextStatus, PartitionMode};
pub use verify::Verification;

use crate::{
    ContextGuard, ContextPriority, CudaDevice, Error, GreenContext, GreenContextConfig,
    MemoryBudget, Result, guard,
    planner::{
        self, DeviceFacts, Part, Piece, Plan, PlannedPartition, SmRequest, SplitCall, SplitStrategy,
    },
    resource::{self, SmResource, Split},
};

/// 8 GiB, the memory limit of each context of a quad partition.
const QUAD_MEMORY_LIMIT: u64 = 8 << 30;

/// Partitions one device and hands the partitions out by name.
///
/// Every method may be called from any thread. No sequence of calls gives an SM to two contexts.
/// Contexts that are in use are never destroyed.
///
/// Where the driver or the GPU has no green contexts, it works in single-context mode: every id stands
/// for the whole GPU, [`AllocationStatus::mode`] says so and why, and a warning is logged.
///
/// ```
/// use cuda_green::{ContextId, Driver, SmPartitionManager};
///
/// # fn main() -> cuda_green::Result<()> {
/// // SmPartitionManager::new(0) takes the first GPU of the system's driver.
/// let device = Driver::open(&"sim:rtx5090@13.1".parse()?)?.device(0)?;
/// let manager = SmPartitionManager::on(&device)?;
/// manager.init_quad_partition()?;
///
/// let sizes: Vec<u32> = manager.allocation_status().contexts.iter().map(|c| c.sm_count).collect();
/// assert_eq!(sizes, [42, 42, 42, 44]);
///
/// let stream = manager.get_context(ContextId::Embedding)?.create_stream()?;
/// // kernels launched in `stream` run on the SMs of Embedding only
/// # Ok(())
/// # }
/// ```
pub struct SmPartitionManager<Id = ContextId> {
    device: CudaDevice,
    facts: DeviceFacts,
    mode: PartitionMode,
    /// The split in force. Held through every change, so that changes come one after another.
    layout: Mutex<Option<Layout>>,
    /// Read by every activation, written only for a moment by changes.
    contexts: RwLock<Vec<Entry<Id>>>,
    /// The limit of [`set_context_limit`](Self::set_context_limit); the greatest number for none.
    most_contexts: AtomicUsize,
    /// What the contexts' memory limits stand within.
    memory: Option<MemoryBudget>,
}

impl SmPartitionManager {
    /// A manager of a device of the process's driver.
    ///
    /// # Errors
    /// Those of [`CudaDevice::init`]. Missing green contexts are no error; see the type's documentation.
    pub fn new(device_id: u32) -> Result<Self> {
        Self::on(&CudaDevice::init(device_id)?)
    }

    /// A manager of a given device.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn on(device: &CudaDevice) -> Result<Self> {
        Self::with_ids(device)
    }

    /// Four contexts of a quarter of the device each, all at once or not at all.
    ///
    /// `Embedding` is critical and not preemptible, `Dream` low and preemptible, `Training` and `Reserved`
    /// medium and preemptible; each has a memory limit of 8 GiB. A quarter is rounded down to what the
    /// driver can give without breaking thread-block clusters; what is left over joins `Reserved`, where
    /// the driver can merge (12.5 and later).
    ///
    /// # Errors
    /// [`Error::AlreadyPartitioned`] where there are contexts; [`Error::InsufficientSms`] on a device with
    /// too few SMs; [`Error::Driver`]. Nothing is left behind then.
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
    /// A manager whose contexts have names of the caller's own kind.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn with_ids(device: &CudaDevice) -> Result<Self> {
        let mode = match device.missing_features() {
            None => PartitionMode::Partitioned,
            Some(reason) => {
                log::warn!(
                    "{}: single-context mode, nothing is isolated: {reason}",
                    device.name()
                );
                PartitionMode::SingleContext {
                    reason: reason.to_owned(),
                }
            }
        };
        Ok(Self {
            device: device.clone(),
            facts: device.facts(),
            mode,
            layout: Mutex::new(None),
            contexts: RwLock::new(Vec::new()),
            most_contexts: AtomicUsize::new(usize::MAX),
            memory: None,
        })
    }

    /// The device that is managed.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Creates one context with at least the SMs asked for, out of what is left.
    ///
    /// Contexts created one by one are as disjoint as those of one call. On CUDA 12.4, which cannot merge,
    /// the first context decides the size of all.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::ContextExists`], [`Error::InsufficientSms`],
    /// [`Error::Driver`]. Nothing is left behind then.
    pub fn create_context(&self, id: Id, config: GreenContextConfig) -> Result<GreenContext> {
        config.check()?;
        let total = self.facts.sm_count;
        let mut layout = self.change();
        if self.find(id).is_some() {
            return Err(Error::ContextExists {
                id: format!("{id:?}"),
            });
        }
        let (context, pieces) = if self.mode == PartitionMode::Partitioned {
            if config.sm_count > total {
                let (available, stranded) = self.remaining(layout.as_ref());
                return Err(Error::InsufficientSms {
                    asked: config.sm_count,
                    available,
                    stranded,
                    total,
                });
            }
            self.create_partition(&mut layout, config)?
        } else {
            let promised: u32 = self.read(|contexts| {
                contexts
                    .iter()
                    .map(|entry| entry.context().requested_sms())
                    .sum()
            });
            let available = total.saturating_sub(promised);
            if config.sm_count > available {
                return Err(Error::InsufficientSms {
                    asked: config.sm_count,
                    available,
                    stranded: 0,
                    total,
                });
            }
            (GreenContext::primary(&self.device, config)?, Vec::new())
        };
        self.bound(&context)?;
        self.write(|contexts| contexts.push(Entry::new(id, context.clone(), pieces)));
        Ok(context)
    }

    /// Creates several contexts at once, from one split made for their sizes: all or none.
    ///
    /// Each has at least the SMs asked for, and from 13.1 on exactly those, to a multiple of 2. Where one by
    /// one the units of the split decide, the whole list is seen here, so more lists fit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] and [`Error::ContextExists`] for what the list says,
    /// [`Error::AlreadyPartitioned`] where there are contexts, [`Error::InsufficientSms`],
    /// [`Error::Driver`]. Nothing is left behind then.
    pub fn create_contexts(&self, contexts: &[(Id, GreenContextConfig)]) -> Result<()> {
        for (index, (id, config)) in contexts.iter().enumerate() {
            config.check()?;
            if contexts[..index].iter().any(|(earlier, _)| earlier == id) {
                return Err(Error::ContextExists {
                    id: format!("{id:?}"),
                });
            }
        }
        let requests: Vec<SmRequest> = contexts
            .iter()
            .map(|(_, config)| SmRequest::AtLeast(config.sm_count))
            .collect();
        self.partition(contexts, &requests)
    }

    /// The context of this id.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`].
    pub fn get_context(&self, id: Id) -> Result<GreenContext> {
        self.find(id).ok_or_else(|| Error::NoSuchContext {
            id: format!("{id:?}"),
        })
    }

    /// A stream that follows the name: after a rebalance, work goes to the name's new SMs. Its priority is
    /// that of the context's configuration.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`], [`Error::Driver`].
    pub fn create_stream(&self, id: Id) -> Result<PartitionStream> {
        let slot = self.read(|contexts| {
            let entry = contexts.iter().find(|entry| entry.id == id);
            entry.map(|entry| (entry.slot.clone(), entry.context().config().priority))
        });
        let (slot, priority) = slot.ok_or_else(|| Error::NoSuchContext {
            id: format!("{id:?}"),
        })?;
        PartitionStream::new(slot, priority)
    }

    /// Makes a context current on this thread until the guard is dropped; see
    /// [`GreenContext::activate`], which is faster where the context is at hand.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`], [`Error::Driver`].
    pub fn activate(&self, id: Id) -> Result<ContextGuard<'static>> {
        ContextGuard::owned(self.get_context(id)?)
    }

    /// Makes a context current on this thread until the thread sets another, calls
    /// [`unset_current`](Self::unset_current), or ends. It is not destroyed before.
    ///
    /// A guard is the better way, since it cannot be left behind.
    ///
    /// # Errors
    /// [`Error::GuardActive`] inside a guard, which decides what is current; [`Error::NoSuchContext`],
    /// [`Error::Driver`].
    #[doc(alias = "cuCtxSetCurrent")]
    pub fn set_current(&self, id: Id) -> Result<()> {
        guard::set_current(self.get_context(id)?)
    }

    /// Undoes [`set_current`](Self::set_current): this thread has no current context then.
    ///
    /// # Errors
    /// [`Error::GuardActive`] inside a guard; [`Error::Driver`].
    pub fn unset_current(&self) -> Result<()> {
        guard::unset_current(&self.device)
    }

    /// What has been given to whom.
    pub fn allocation_status(&self) -> AllocationStatus<Id> {
        let layout = self.change();
        let (available, stranded) = self.remaining(layout.as_ref());
        let contexts: Vec<ContextStatus<Id>> = self.read(|contexts| {
            contexts
                .iter()
                .map(|entry| ContextStatus::of(entry.id, entry.context()))
                .collect()
        });
        let allocated = if self.mode == PartitionMode::Partitioned {
            contexts.iter().map(|context| context.sm_count).sum()
        } else if contexts.is_empty() {
            0
        } else {
            self.facts.sm_count
        };
        let green_contexts = self.read(|contexts| kept::kept(contexts));
        AllocationStatus {
            green_contexts,
            green_context_bytes: green_contexts as u64 * GREEN_CONTEXT_BYTES,
            simulated: self.device.driver().is_simulated(),
            mode: self.mode.clone(),
            strategy: layout.as_ref().map(|layout| layout.strategy),
            total_sms: self.facts.sm_count,
            allocated_sms: allocated,
            available_sms: match &*layout {
                // One context could take at most `available`; several could share this much.
                Some(_) => self.facts.sm_count - allocated - stranded,
                None => available,
            },
            stranded_sms: stranded,
            stranded_reason: (stranded > 0)
                .then(|| self.stranded_reason(layout.as_ref(), stranded)),
            contexts,
        }
    }

    /// Destroys a context and gives its SMs back, once its work is done.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`]; [`Error::ContextInUse`] while a handle, stream or guard of it is left,
    /// which changes nothing; [`Error::Driver`].
    pub fn destroy_context(&self, id: Id) -> Result<()> {
        let mut layout = self.change();
        let entry = self.write(|contexts| generation::take_out(contexts, id))?;
        let closed = entry.close();
        self.read(|contexts| {
            if contexts.is_empty() {
                *layout = None;
            } else if let Some(layout) = &mut *layout {
                // What it had on loan is its owner's still; what it had lent comes back to be given.
                let taken = contexts
                    .iter()
                    .flat_map(|entry| entry.base.iter().chain(entry.pieces()));
                layout.mark_all_free_but(taken);
            }
        });
        closed
    }

    /// One split for all of these contexts at once.
    fn partition(
        &self,
        contexts: &[(Id, GreenContextConfig)],
        requests: &[SmRequest],
    ) -> Result<()> {
        let mut layout = self.change();
        let existing = self.read(|contexts| contexts.len());
        if existing > 0 {
            return Err(Error::AlreadyPartitioned { contexts: existing });
        }
        if self.mode != PartitionMode::Partitioned {
            let requested = planner::resolve(&self.facts, requests)?;
            let entries = contexts
                .iter()
                .zip(requested)
                .map(|((id, config), sm_count)| {
                    let config = GreenContextConfig {
                        sm_count,
                        ..*config
                    };
                    let context = GreenContext::primary(&self.device, config)?;
                    self.bound(&context)?;
                    Ok(Entry::new(*id, context, Vec::new()))
                })
                .collect::<Result<Vec<_>>>()?;
            self.write(|contexts| *contexts = entries);
            return Ok(());
        }
        let all = self.device.sm_resource()?;
        let driver = self.device.driver();
        let count = |min, fine| resource::count_groups(driver, &all, min, fine);
        let mut refusal = None;
        for plan in planner::plans(&self.facts, requests, &count)? {
            match self.execute(&plan, &all, contexts) {
                Ok((new_layout, entries)) => {
                    *layout = Some(new_layout);
                    self.write(|contexts| *contexts = entries);
                    return Ok(());
                }
                Err(error) if is_topology_refusal(&error) => {
                    log::info!(
                        "{:?} was refused for reasons of topology: {error}",
                        plan.strategy
                    );
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| self.insufficient(self.facts.sm_count, None)))
    }

    /// Makes the plan's split and all its contexts; drops what was made if one fails.
    fn execute(
        &self,
        plan: &Plan,
        all: &SmResource,
        contexts: &[(Id, GreenContextConfig)],
    ) -> Result<(Layout, Vec<Entry<Id>>)> {
        let split = self.split(&plan.call, all)?;
        let mut layout = Layout::of(self.facts, plan.strategy, plan.coscheduled, split);
        let mut entries = Vec::with_capacity(contexts.len());
        for (
            (id, config),
            PlannedPartition {
                requested,
                parts,
                sm_count,
            },
        ) in contexts.iter().zip(&plan.partitions)
        {
            let pieces = layout
                .find(parts)
                .ok_or_else(|| self.insufficient(*requested, Some(&layout)))?;
            let config = GreenContextConfig {
                sm_count: *requested,
                ..*config
            };
            let context = layout.create(&self.device, config, *requested, &pieces)?;
            self.bound(&context)?;
            if context.sm_count() != *sm_count {
                log::info!(
                    "{id:?}: {} SMs, where {sm_count} were planned",
                    context.sm_count()
                );
            }
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
        let asked = config.sm_count;
        let mut source = match layout.take() {
            Some(source) => source,
            None => self.units(asked)?,
        };
        let made = self.create_from(&source, config);
        if let Ok((_, pieces)) = &made {
            source.mark_taken(pieces);
        }
        if source.pieces.iter().any(|piece| !piece.free) {
            *layout = Some(source);
        }
        made
    }

    fn create_from(
        &self,
        source: &Layout,
        config: GreenContextConfig,
    ) -> Result<(GreenContext, Vec<usize>)> {
        let asked = config.sm_count;
        let choose = |from: &[Piece]| {
            planner::choose(from, source.merges(), asked)
                .ok_or_else(|| self.insufficient(asked, Some(source)))
        };
        let pieces = choose(&source.pieces)?;
        match source.create(&self.device, config, asked, &pieces) {
            // Units and a remainder do not merge everywhere; units do.
            Err(error) if is_topology_refusal(&error) => {
                let units: Vec<Piece> = source
                    .pieces
                    .iter()
                    .map(|piece| Piece {
                        free: piece.free && piece.part != Part::Remainder,
                        ..*piece
                    })
                    .collect();
                let pieces = choose(&units)?;
                Ok((source.create(&self.device, config, asked, &pieces)?, pieces))
            }
            created => Ok((created?, pieces)),
        }
    }

    /// The split that contexts created one by one draw from: units that merge or, where nothing merges,
    /// equal groups of the size of the first.
    fn units(&self, first: u32) -> Result<Layout> {
        let driver = self.device.driver();
        let all = self.device.sm_resource()?;
        let granularity = self.facts.capabilities.granularity;
        let (size, fine, strategy) = if self.facts.capabilities.merge {
            let (unit, fine) = self.facts.unit();
            (
                unit,
                fine,
                if fine {
                    SplitStrategy::MergedFineUnits
                } else {
                    SplitStrategy::MergedUnits
                },
            )
        } else {
            // The driver rounds up by itself, to all SMs if need be.
            let size = first.max(granularity.min);
            (size, false, SplitStrategy::EqualGroups)
        };
        if size > self.facts.sm_count {
            return Err(self.insufficient(first, None));
        }
        let coscheduled = if strategy == SplitStrategy::EqualGroups {
            granularity.multiple
        } else {
            size
        };
        let layout = |strategy, split| Layout::of(self.facts, strategy, coscheduled, split);
        let groups = resource::count_groups(driver, &all, size, fine)?;
        if self.facts.capabilities.structured_split
            && !fine
            && let Some(units) = planner::structured_units(&self.facts, groups)
        {
            match self.split(&SplitCall::Structured(units), &all) {
                Err(error) if is_topology_refusal(&error) => {}
                split => return Ok(layout(SplitStrategy::StructuredUnits, split?)),
            }
        }
        let call = SplitCall::ByCount {
            groups,
            min_count: size,
            fine,
        };
        Ok(layout(strategy, self.split(&call, &all)?))
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

    /// SMs that one more context could get, and SMs that are stranded.
    fn remaining(&self, layout: Option<&Layout>) -> (u32, u32) {
        match layout {
            Some(layout) => planner::available(&layout.pieces, layout.merges()),
            None if self.mode == PartitionMode::Partitioned => (self.facts.sm_count, 0),
            None => {
                let any = self.read(|contexts| !contexts.is_empty());
                (if any { 0 } else { self.facts.sm_count }, 0)
            }
        }
    }

    fn insufficient(&self, asked: u32, layout: Option<&Layout>) -> Error {
        let (available, stranded) = self.remaining(layout);
        Error::InsufficientSms {
            asked,
            available,
            stranded,
            total: self.facts.sm_count,
        }
    }

    fn stranded_reason(&self, layout: Option<&Layout>, stranded: u32) -> String {
        let (total, driver) = (self.facts.sm_count, self.facts.capabilities.driver);
        match layout.map(|layout| layout.strategy) {
            Some(SplitStrategy::EqualGroups) => format!(
                "the device's {total} SMs do not divide into groups of this size, and CUDA {driver} cannot merge the last {stranded} into one; 12.5 can"
            ),
            Some(SplitStrategy::Structured | SplitStrategy::StructuredUnits) => {
                format!("the device has {total} SMs, and a group has an even number")
            }
            _ => format!("{stranded} SMs of the split cannot be combined with others"),
        }
    }

    fn change(&self) -> MutexGuard<'_, Option<Layout>> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, action: impl FnOnce(&Vec<Entry<Id>>) -> T) -> T {
        action(&self.contexts.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, action: impl FnOnce(&mut Vec<Entry<Id>>) -> T) -> T {
        action(
            &mut self
                .contexts
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn find(&self, id: Id) -> Option<GreenContext> {
        self.read(|contexts| {
            contexts
                .iter()
                .find(|entry| entry.id == id)
                .map(|entry| entry.context().clone())
        })
    }
}

impl<Id> ContextStatus<Id> {
    fn of(id: Id, context: &GreenContext) -> Self {
        let config = context.config();
        Self {
            id,
            requested_sms: context.requested_sms(),
            sm_count: context.sm_count(),
            coscheduled_sms: context.coscheduled_sms(),
            max_cluster_size: context.max_cluster_size(),
            priority: config.priority,
            preemptible: config.preemptible,
            memory_limit_bytes: config.memory_limit_bytes,
            memory_used_bytes: context.memory_used(),
        }
    }
}

/// Whether the driver refused a split or a merge for what the chip looks like, so that another may work.
fn is_topology_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Driver {
            code: CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
            ..
        }
    )
}

impl<Id: Debug> Debug for SmPartitionManager<Id> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmPartitionManager")
            .field("device", &self.device)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

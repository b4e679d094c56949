//! The partition manager: disjoint shares of one device under names.
//!
//! All partitions in force come from one split. A context takes pieces of it and gives them back when it
//! is destroyed; when the last one is gone, so is the split.

mod context_key;
mod create;
mod create_one;
mod execute_plan;
#[cfg(feature = "metrics")]
mod exporter;
mod generation;
mod hand_off;
mod label;
mod layout;
mod memory_report;
mod observe;
mod partition_graph;
mod partition_stream;
mod plan;
mod probe;
mod rebalance;
mod reentrancy;
mod registry;
mod retention;
mod scaffold;
mod status;
mod stream_home;
mod verify;

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
};

#[cfg(feature = "test-utils")]
use cuda_green_sys::CudaVersion;

pub use context_key::ContextKey;
#[cfg(feature = "metrics")]
pub use exporter::PartitionExporter;
use generation::{Entry, Generation};
pub use hand_off::HandOff;
use label::label;
use layout::Layout;
#[cfg(feature = "metrics")]
use observe::Figures;
use observe::Operation;
pub use partition_graph::PartitionGraph;
pub use partition_stream::PartitionStream;
pub use probe::Probe;
pub use rebalance::RebalanceHint;
use registry::{Ids, Names, NotEnded};
pub use retention::GREEN_CONTEXT_BYTES;
pub use status::{AllocationStatus, ContextId, ContextStatus, PartitionMode};
pub use stream_home::StreamHome;
pub use verify::{Miscount, Overlap, Verification, VerificationMethod};

use crate::{
    capabilities::Capabilities,
    device::CudaDevice,
    error::{Error, Result},
    events::{self, PartitionEvent, emit},
    guard::{self, ContextGuard},
    memory::MemoryBudget,
    partition::GreenContext,
    planner::DeviceFacts,
};

/// Partitions one device and hands the partitions out by name.
///
/// Every method may be called from any thread. No sequence of calls gives an SM to two contexts.
/// Contexts that are in use are never destroyed.
///
/// One manager at a time splits a device: while contexts of one are in use, those too that outlived it, another is
/// refused ([`Error::PartitionedElsewhere`]), since the SMs of two splits overlap. So share one, in an `Arc`. It is
/// not known what other processes do, or what is split by hand ([`SmResource::split`](crate::SmResource::split)).
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
    /// Read by every activation, written only for a moment by changes. Dropped before the split.
    names: Names<Id>,
    /// Held through every change, so that changes come one after another. Whoever holds it may wait for the GPU, and
    /// for the users of streams of names; nothing of a client's runs or ends meanwhile but those.
    changes: Mutex<()>,
    /// The split in force. Held while it changes, and while contexts are made of it; whoever holds it waits for
    /// nobody who may want it.
    layout: Mutex<Option<Layout>>,
    /// The limit of [`set_context_limit`](Self::set_context_limit); the greatest number for none.
    most_contexts: AtomicUsize,
    /// What the contexts' memory limits stand within.
    memory: Option<MemoryBudget>,
    #[cfg(feature = "metrics")]
    figures: Figures,
}

/// The time of a change, in which no other begins.
struct Changing<'a> {
    _lock: MutexGuard<'a, ()>,
    /// Dropped after the lock: who hears of the change may call the manager.
    _events: events::Held,
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
    /// As [`with_ids`](Self::with_ids).
    pub fn on(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            names: Names::new(true),
            ..Self::with_ids(device)?
        })
    }
}

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// A manager whose contexts have names of the caller's own kind: numbers, strings of a configuration file, an
    /// enum of the program's. Of what kind, the first context that is created says, or the type:
    /// `SmPartitionManager::<String>::with_ids(&device)`.
    ///
    /// Nothing is done with ids but to compare, copy, show and drop them; none of it while the manager holds a lock.
    ///
    /// # Errors
    /// None as it is: all that the driver must be asked for, the device has been. A driver that must be asked
    /// for more may fail here.
    pub fn with_ids(device: &CudaDevice) -> Result<Self> {
        Ok(Self::of(
            device,
            *device.capabilities(),
            device.missing_features(),
        ))
    }

    /// A manager that uses nothing newer than this CUDA version, whatever the driver can do: for tests of
    /// the ways of older drivers on a newer one.
    ///
    /// # Errors
    /// As [`with_ids`](Self::with_ids).
    #[cfg(feature = "test-utils")]
    pub fn as_of(device: &CudaDevice, version: CudaVersion) -> Result<Self> {
        let capabilities = Capabilities::of(
            version.min(device.capabilities().driver),
            device.capabilities().granularity,
        );
        let missing = (!capabilities.green_contexts).then_some("the version asked for has none");
        Ok(Self::of(
            device,
            capabilities,
            device.missing_features().or(missing),
        ))
    }

    fn of(device: &CudaDevice, capabilities: Capabilities, missing: Option<&str>) -> Self {
        let mode = match missing {
            None => PartitionMode::Partitioned,
            Some(reason) => {
                log::warn!(
                    "{}: single-context mode, nothing is isolated: {reason}",
                    device.name()
                );
                emit(|| PartitionEvent::SingleContext {
                    device: device.ordinal(),
                    reason: reason.to_owned(),
                });
                PartitionMode::SingleContext {
                    reason: reason.to_owned(),
                }
            }
        };
        Self {
            device: device.clone(),
            facts: DeviceFacts {
                capabilities,
                ..device.facts()
            },
            mode,
            names: Names::new(false),
            changes: Mutex::new(()),
            layout: Mutex::new(None),
            most_contexts: AtomicUsize::new(usize::MAX),
            memory: None,
            #[cfg(feature = "metrics")]
            figures: Figures::default(),
        }
    }

    /// The device that is managed.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// The context of this id.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`].
    pub fn get_context(&self, id: impl ContextKey<Id>) -> Result<GreenContext> {
        let context = |entry: &Entry<Id>| entry.context().clone();
        let found = self.names.find(|own| id.is(own), context);
        found.ok_or_else(|| no_such_context(&id))
    }

    /// A stream that follows the name: after a rebalance, work goes to the name's new SMs. Its priority is
    /// that of the context's configuration.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`], [`Error::InsidePartitionStream`], [`Error::Driver`].
    pub fn create_stream(&self, id: impl ContextKey<Id>) -> Result<PartitionStream> {
        let slot = |entry: &Entry<Id>| (entry.slot.clone(), entry.context().policy().priority);
        let found = self.names.find(|own| id.is(own), slot);
        let (slot, priority) = found.ok_or_else(|| no_such_context(&id))?;
        PartitionStream::new(slot, priority)
    }

    /// Makes a context current on this thread until the guard is dropped; see
    /// [`GreenContext::activate`], which is faster where the context is at hand.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`], [`Error::Driver`].
    pub fn activate(&self, id: impl ContextKey<Id>) -> Result<ContextGuard<'static>> {
        ContextGuard::owned(self.get_context(id)?)
    }

    /// Makes a context current on this thread until the thread sets another, calls
    /// [`unset_current`](Self::unset_current), or ends. It is not destroyed before.
    ///
    /// A guard is the better way, since it cannot be left behind. Either way, the default stream orders nothing then:
    /// see [`GreenContext::activate`].
    ///
    /// # Errors
    /// [`Error::GuardActive`] inside a guard, which decides what is current; [`Error::NoSuchContext`],
    /// [`Error::Driver`].
    #[doc(alias = "cuCtxSetCurrent")]
    pub fn set_current(&self, id: impl ContextKey<Id>) -> Result<()> {
        guard::set_current(self.get_context(id)?)
    }

    /// Undoes [`set_current`](Self::set_current): this thread has no current context then.
    ///
    /// # Errors
    /// [`Error::GuardActive`] inside a guard; [`Error::Driver`].
    pub fn unset_current(&self) -> Result<()> {
        guard::unset_current(&self.device)
    }

    /// Destroys a context and gives its SMs back, once its work is done.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`]; [`Error::ContextInUse`] while a handle, stream or guard of it is left, and
    /// [`Error::ContextIsCurrent`] where foreign code made it current to this thread, which both change
    /// nothing; [`Error::InsidePartitionStream`]; [`Error::Driver`].
    pub fn destroy_context(&self, id: impl ContextKey<Id>) -> Result<()> {
        let destroyed = self.noting(Operation::Destroy, self.destroy(&id));
        if destroyed.is_ok() {
            emit(|| PartitionEvent::PartitionDestroyed {
                device: self.device.ordinal(),
                partition: label(&id),
            });
        }
        destroyed
    }

    fn destroy(&self, id: &impl ContextKey<Id>) -> Result<()> {
        // These outlive the lock, since both are a client's in part: who hears of the bytes that the end of a pool
        // gives back, and the id, may call the manager.
        let (_id, _pool);
        let holders = {
            let (_changing, index) = self.change_by(|ids| position(ids, id))?;
            match self.names.take_out(index) {
                Ok(entry) => {
                    _pool = entry.context().memory_if_made().cloned();
                    _id = Arc::clone(&entry.id);
                    let closed = entry.close();
                    return closed.and(self.free_unused(&mut self.layout()));
                }
                Err(NotEnded::InUse(holders)) => holders,
                Err(NotEnded::Error(error)) => return Err(error),
            }
        };
        Err(Error::ContextInUse {
            id: label(id),
            holders,
        })
    }

    /// Frees the pieces that no name has, neither as its own nor on loan: what a name had on loan is its
    /// owner's still, and what it had lent is to be given once it is back.
    fn free_unused(&self, layout: &mut Option<Layout>) -> Result<()> {
        let Some(split) = layout else {
            return Ok(());
        };
        self.names.read(|contexts| {
            let taken = contexts
                .iter()
                .flat_map(|entry| entry.base.iter().chain(entry.pieces()));
            let generations = contexts.iter().flat_map(|entry| &entry.generations);
            let kept = generations.flat_map(|generation| &generation.pieces);
            split.free_all_but(taken, kept);
        });
        let tidied = split.tidy();
        if !split.is_in_use() {
            *layout = None;
        }
        tidied
    }

    /// The split in force, without what was let go of since the last change.
    fn tidied(&self, layout: &mut Option<Layout>) {
        if let Err(error) = self.free_unused(layout) {
            log::error!("destroying a scaffold context: {error}");
        }
    }

    /// Begins a change.
    ///
    /// # Errors
    /// [`Error::InsidePartitionStream`].
    fn change(&self) -> Result<Changing<'_>> {
        reentrancy::refuse_inside()?;
        let events = events::hold();
        Ok(Changing {
            _lock: self.changes.lock().unwrap_or_else(PoisonError::into_inner),
            _events: events,
        })
    }

    /// Begins a change, and gives what was seen among the ids, which stays so until it ends. Looking at ids runs a
    /// client's code, so it is done with no lock held, and again where the names changed meanwhile.
    fn change_by<T>(&self, look: impl Fn(&Ids<Id>) -> Result<T>) -> Result<(Changing<'_>, T)> {
        loop {
            let ids = self.names.ids();
            let seen = look(&ids)?;
            let changing = self.change()?;
            if Arc::ptr_eq(&ids, &self.names.ids()) {
                return Ok((changing, seen));
            }
            drop(changing);
        }
    }

    fn layout(&self) -> MutexGuard<'_, Option<Layout>> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of an id.
fn position<Id>(ids: &Ids<Id>, id: &impl ContextKey<Id>) -> Result<usize> {
    let found = ids.iter().position(|own| id.is(own));
    found.ok_or_else(|| no_such_context(id))
}

/// Refuses an id that is there.
fn refuse_existing<Id: Eq + Debug>(ids: &[Arc<Id>], id: &Id) -> Result<()> {
    if ids.iter().any(|own| **own == *id) {
        return Err(Error::ContextExists { id: label(id) });
    }
    Ok(())
}

fn no_such_context(id: &impl Debug) -> Error {
    Error::NoSuchContext { id: label(id) }
}

impl<Id: Debug> Debug for SmPartitionManager<Id> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmPartitionManager")
            .field("device", &self.device)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

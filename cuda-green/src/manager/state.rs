//! The state of a manager, and the order of its locks.
//!
//! The locks are those of a change (in the registry), of the layout, and of the names (in the registry), taken in this
//! order. The types keep it: outside of this file the layout is reached through a [`Change`] or within
//! [`ManagerState::with_tidied_layout`], and nothing that can take another lock runs under that of the names.

use std::{
    fmt::Debug,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
};

#[cfg(feature = "metrics")]
use super::counters::SharedCounters;
use super::{join::Shared, layout::Layout, mode::PartitionMode};
use crate::{
    capabilities::Capabilities,
    device::CudaDevice,
    error::Result,
    events::{self, PartitionEvent, emit},
    memory::MemoryBudget,
    names::{self, Ids, Registry, RegistryChange},
    planner::DeviceFacts,
    sync::{Mutex, MutexGuard},
};

/// The state of a manager.
pub(super) struct ManagerState<Id> {
    pub(super) device: CudaDevice,
    pub(super) facts: DeviceFacts,
    pub(super) mode: PartitionMode,
    /// Dropped before the layout.
    pub(super) registry: Registry<Id>,
    /// Locked while it changes, and while contexts are made of it; its holder waits for no one who may want it.
    layout: Mutex<Option<Layout>>,
    /// The plan among processes that the manager keeps to, if it joined one. Dropped after the layout.
    pub(super) shared: Option<Shared>,
    /// The largest number of green contexts, or `usize::MAX`.
    pub(super) context_limit: AtomicUsize,
    /// The budget that the contexts' memory limits stand within.
    pub(super) memory_budget: OnceLock<MemoryBudget>,
    #[cfg(feature = "metrics")]
    pub(super) counters: SharedCounters,
}

/// A change, during which no other begins. Its holder may wait for the GPU, and for the users of streams that follow
/// names; of a client's code only theirs runs meanwhile.
pub(super) struct Change<'a, Id> {
    pub(super) registry: RegistryChange<'a, Id>,
    layout: &'a Mutex<Option<Layout>>,
    /// Dropped after the lock: a subscriber of events may call the manager.
    _events: events::Deferred,
}

impl<Id> ManagerState<Id> {
    /// Returns the state of a manager without names; `missing` is the reason why the device cannot be partitioned.
    pub(super) fn new(
        device: &CudaDevice,
        capabilities: Capabilities,
        missing: Option<&str>,
        ids_are_own: bool,
    ) -> Self {
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
            registry: Registry::new(ids_are_own),
            layout: Mutex::new(None),
            shared: None,
            context_limit: AtomicUsize::new(usize::MAX),
            memory_budget: OnceLock::new(),
            #[cfg(feature = "metrics")]
            counters: SharedCounters::default(),
        }
    }

    /// Begins a change.
    ///
    /// # Errors
    /// [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream).
    pub(super) fn begin_change(&self) -> Result<Change<'_, Id>> {
        names::refuse_inside()?;
        let events = events::defer();
        Ok(Change {
            registry: self.registry.begin_change(),
            layout: &self.layout,
            _events: events,
        })
    }

    /// Begins a change, and returns what `look` found among the ids, which holds until the change ends. Looking at ids
    /// runs a client's code, so it is done with no lock held, and again where names were added or removed meanwhile.
    pub(super) fn begin_change_of<T>(
        &self,
        look: impl Fn(&Ids<Id>) -> Result<T>,
    ) -> Result<(Change<'_, Id>, T)> {
        loop {
            let ids = self.registry.ids();
            let found = look(&ids)?;
            let change = self.begin_change()?;
            if Arc::ptr_eq(&ids, &self.registry.ids()) {
                return Ok((change, found));
            }
            drop(change);
        }
    }

    /// Looks at the layout outside of a change, once the pieces that became free are free.
    pub(super) fn with_tidied_layout<T>(&self, look: impl FnOnce(Option<&Layout>) -> T) -> T {
        let _events = events::defer(); // until the lock is free
        let mut layout = self.layout.lock();
        self.tidy(&mut layout);
        look(layout.as_ref())
    }

    /// Frees pieces that no name owns or has in force, and ends a layout without pieces in use. Borrowed pieces stay
    /// with their owner; lent pieces become free when they are returned.
    pub(super) fn free_unused_pieces(&self, layout: &mut Option<Layout>) -> Result<()> {
        let Some(current) = layout else {
            return Ok(());
        };
        let mut used = self.registry.used_pieces();
        if self.shared.is_some() {
            // What a retired context has is no other name's of this manager.
            used.taken.extend_from_slice(&used.leased);
        }
        current.free_all_but(&used);
        if self.shared.is_some() {
            current.withhold_free_pieces();
        }
        let tidied = current.tidy();
        if !current.is_in_use() {
            *layout = None;
        }
        tidied
    }

    /// Frees pieces that became unused since the last change, and logs what fails.
    pub(super) fn tidy(&self, layout: &mut Option<Layout>) {
        if let Err(error) = self.free_unused_pieces(layout) {
            log::error!("destroying a scaffold context: {error}");
        }
    }
}

impl<Id> Change<'_, Id> {
    /// Locks the layout.
    pub(super) fn layout(&self) -> MutexGuard<'_, Option<Layout>> {
        self.layout.lock()
    }
}

impl<Id: Debug> Debug for ManagerState<Id> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmPartitionManager")
            .field("device", &self.device)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

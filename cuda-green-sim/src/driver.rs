//! The driver, and the checks that all its entry points begin with.
//!
//! Each file below this one has the entry points of one part of the API, as methods of their C names, or what they
//! work on (`state`, `handles`, `current_context`, `stream_actions`).

#![allow(non_snake_case)] // the driver's own names

mod addresses;
mod begin_call;
mod capture;
mod capture_calls;
mod current_context;
mod descriptors;
mod device_attributes;
mod devices;
mod events;
mod functions;
mod graphs;
mod green_contexts;
mod handles;
mod held;
mod host_functions;
mod late_copies;
mod launch;
mod leaks;
mod libraries;
mod links;
mod memory;
mod modules;
mod peers;
mod pools;
mod primary_contexts;
mod resources;
mod sm_resource;
mod splits;
mod state;
mod stream_actions;
mod streams;
mod virtual_memory;
mod workqueues;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use cuda_green_sys::{CUresult, CudaVersion};

use crate::{
    c_args::Answer,
    injection::Injections,
    kernel::{Cost, Kernel, built_in, built_in_costs},
    leaks::MadeAt,
    memory::Memory,
    profile::Profile,
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard},
    visible_devices,
};

use handles::{Kind, as_pointer};
use state::{Context, State};

/// The number of the next driver in this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A simulated driver.
pub(crate) struct Driver {
    pub(crate) profile: Profile,
    /// The original ordinal of each visible device, or the error code of `cuInit`.
    visible: Result<Vec<u32>, CUresult>,
    number: u64,
    /// For the threads of held actions.
    this: Weak<Driver>,
    state: Mutex<State>,
    /// Notified when a held action is over, or will never be.
    changed: Condvar,
    /// Locked after `state` where both are needed, and alone while a kernel runs.
    memory: RwLock<Memory>,
    kernels: RwLock<HashMap<String, Kernel>>,
    costs: RwLock<HashMap<String, Cost>>,
    injections: Injections,
    /// The lost devices, a bit for each.
    lost: AtomicU32,
    /// Calls so far.
    calls: AtomicU64,
    /// Whether `trace` is on, so that a call can check it without the lock.
    tracing: AtomicBool,
    /// The calls since the trace was started.
    trace: Mutex<Option<Vec<MadeAt>>>,
}

impl Driver {
    /// Makes the driver of a profile. If there is a `list` (`CUDA_VISIBLE_DEVICES`), the process sees only the
    /// devices that it names.
    pub(crate) fn new(mut profile: Profile, list: Option<&str>) -> Arc<Self> {
        let all = 0..profile.device_count;
        let visible = match list {
            Some(list) => {
                let uuids: Vec<_> = all.map(|ordinal| profile.uuid(ordinal)).collect();
                visible_devices::devices(list, &uuids)
            }
            None => Ok(all.collect()),
        };
        profile.device_count = visible.as_ref().map_or(0, Vec::len) as u32;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let count = profile.device_count as usize;
        Arc::new_cyclic(|this| Self {
            number,
            this: Weak::clone(this),
            changed: Condvar::default(),
            state: Mutex::new(State::new(number, &profile)),
            memory: RwLock::new(Memory::new(vec![profile.device.memory_bytes; count])),
            kernels: RwLock::new(by_name(built_in())),
            costs: RwLock::new(by_name(built_in_costs())),
            injections: Injections::default(),
            lost: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            tracing: AtomicBool::new(false),
            trace: Mutex::new(None),
            visible,
            profile,
        })
    }

    pub(crate) fn register_kernel(&self, name: &str, kernel: Kernel) {
        let replaced = self.kernels.write().insert(name.to_owned(), kernel);
        // Dropped after the lock is released: the closure may own anything.
        drop(replaced);
    }

    pub(crate) fn has_kernel(&self, name: &str) -> bool {
        self.kernels.read().contains_key(name)
    }

    pub(crate) fn register_cost(&self, name: &str, cost: Cost) {
        let replaced = self.costs.write().insert(name.to_owned(), cost);
        drop(replaced);
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.lock().timeline.now())
    }

    pub(crate) fn advance(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.lock().timeline.spend(ns);
    }

    /// Returns `DEVICE_UNAVAILABLE` for a lost device.
    fn present(&self, device: usize) -> Answer {
        match self.lost.load(Ordering::Relaxed) >> device & 1 {
            0 => Ok(()),
            _ => Err(CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE),
        }
    }

    /// Returns whether the driver supports this CUDA version.
    fn speaks(&self, major: u16, minor: u8) -> bool {
        self.profile.cuda_version >= CudaVersion::new(major, minor)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn memory(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write()
    }

    /// Begins nearly every entry point: the driver must be initialised and have no persistent fault.
    fn enter(&self) -> Result<MutexGuard<'_, State>, CUresult> {
        let state = self.enter_despite_fault()?;
        match state.fault {
            Some(fault) => Err(fault),
            None => Ok(state),
        }
    }

    /// Begins an entry point that works after a fault as before it: one that queries devices and resources, makes
    /// contexts current, or retains and ends them. Measured on an H200 (driver 580) for `cuDeviceGetCount`,
    /// `cuDeviceGetDevResource`, `cuCtxGetCurrent`, `cuCtxSetCurrent`, `cuGreenCtxDestroy` and the primary context's
    /// retain and release; assumed for the others.
    fn enter_despite_fault(&self) -> Result<MutexGuard<'_, State>, CUresult> {
        let state = self.lock_up_to_date();
        if state.initialised {
            Ok(state)
        } else {
            Err(CUresult::CUDA_ERROR_NOT_INITIALIZED)
        }
    }

    /// Checks as [`enter`](Self::enter) does, for entry points that need no state.
    fn ready(&self) -> Answer {
        self.enter().map(drop)
    }

    /// Checks as [`enter_despite_fault`](Self::enter_despite_fault) does, for entry points that need no state.
    fn ready_despite_fault(&self) -> Answer {
        self.enter_despite_fault().map(drop)
    }

    /// Returns the index of a device handle, which is its ordinal.
    fn device(&self, device: i32) -> Result<usize, CUresult> {
        let index = usize::try_from(device)
            .ok()
            .filter(|index| *index < self.profile.device_count as usize)
            .ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)?;
        self.present(index)?;
        Ok(index)
    }
}

fn by_name<T>(list: Vec<(&'static str, T)>) -> HashMap<String, T> {
    list.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Returns `INVALID_VALUE` unless the condition holds.
fn require(condition: bool) -> Answer {
    if condition {
        Ok(())
    } else {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

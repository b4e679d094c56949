//! The actions of a stream: done at once or, in a capture, recorded as nodes of a graph.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use cuda_green_sys::CUresult;

use super::{Context, Driver, State};
use crate::{
    c_args::{Answer, ClientPointer, HostFunction},
    kernel::Launch,
    memory::FaultKind,
    shared_sms,
    sync::{MutexGuard, RwLock},
    timeline::{Effect, LaneOf, Work},
};

/// One action of a stream.
pub(super) enum Action {
    Kernel(KernelLaunch),
    CopyIn {
        to: u64,
        from: ClientPointer,
        bytes: usize,
    },
    CopyOut {
        to: ClientPointer,
        from: u64,
        bytes: usize,
    },
    CopyWithin {
        to: u64,
        from: u64,
        bytes: u64,
    },
    /// A copy from pageable memory, which was staged.
    Write {
        to: u64,
        bytes: Vec<u8>,
    },
    Free(u64),
    /// A repeated pattern of one byte or of four.
    Fill {
        address: u64,
        pattern: Pattern,
        bytes: u64,
    },
    Call(HostFunction),
    /// Record an event, from within a graph.
    Record(u64),
    /// Wait for an event, from within a graph.
    Wait(u64),
}

#[derive(Clone, Copy)]
pub(super) enum Pattern {
    Byte(u8),
    Word(u32),
}

/// A launch, with all parameters of its call and everything that was looked up for it.
pub(super) struct KernelLaunch {
    pub(super) function: u64,
    pub(super) name: String,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    pub(super) cluster: [u32; 3],
    pub(super) args: Vec<Vec<u8>>,
    pub(super) context: Context,
    /// The SMs of its context, on which it runs wherever a graph with it is launched (measured on an H200, driver
    /// 580).
    pub(super) sm_ids: Vec<u32>,
    /// The ids that the kernel sees, which MPS renumbers in each context.
    pub(super) seen_sm_ids: Vec<u32>,
    pub(super) priority: i32,
}

impl KernelLaunch {
    fn as_seen<'a>(&'a self, driver: &'a Driver, stopped: Option<&'a AtomicBool>) -> Launch<'a> {
        Launch {
            name: &self.name,
            grid: self.grid,
            block: self.block,
            shared_bytes: self.shared_bytes,
            cluster: self.cluster,
            sm_ids: &self.seen_sm_ids,
            args: &self.args,
            memory: &driver.memory,
            fault: OnceLock::new(),
            stopped,
        }
    }
}

impl Driver {
    /// Does an action in a stream's order, or records it if the stream is in a capture.
    pub(super) fn enqueue(
        &self,
        mut state: MutexGuard<'_, State>,
        lane: LaneOf,
        action: Action,
    ) -> Answer {
        let Some(action) = state.capture(lane, action)? else {
            return Ok(());
        };
        self.after_late_copies(&mut state, lane);
        // The client's functions are called without the driver's locks, because they may call the driver.
        drop(state);
        let work = self.work(&action);
        let failed = work.is_err();
        let effect = match failed {
            true => Effect::None,
            false => self.effect(&action),
        };
        let mut state = self.lock();
        if self.ends_with_its_call(&action) {
            state = self.wait_for_lane(state, lane)?;
        }
        let held = state
            .timeline
            .submit_effect(lane, work.unwrap_or_default(), effect, &[]);
        let Some(held) = held else {
            drop(state);
            if failed {
                self.fault(CUresult::CUDA_ERROR_LAUNCH_FAILED);
                return Ok(());
            }
            return self.perform(&action, None);
        };
        let action = self.detached(action);
        state.hold(&held, lane.device, Arc::new(action));
        self.start(&mut state, held.is_next.then_some(held.op));
        Ok(())
    }

    /// Returns when an action takes effect.
    pub(super) fn effect(&self, action: &Action) -> Effect {
        match action {
            Action::Kernel(kernel) => match registered(&self.kernels, &kernel.name) {
                Some(kernel) if kernel.concurrent => Effect::OnThread,
                _ => Effect::AtOnce,
            },
            _ => Effect::AtOnce,
        }
    }

    fn is_pinned(&self, pointer: &ClientPointer, bytes: usize) -> bool {
        let address = pointer.pointer().handle();
        self.memory().check(address, bytes as u64).is_ok()
    }

    /// Returns whether an action is over when its call returns: a copy to pageable memory of the host, which need not
    /// be valid any longer (CUDA's documentation of how its calls synchronise).
    fn ends_with_its_call(&self, action: &Action) -> bool {
        matches!(action, Action::CopyOut { to, bytes, .. } if !self.is_pinned(to, *bytes))
    }

    /// Makes an action independent of the client's pointers: bytes of pageable memory are staged, as on a GPU, and
    /// pinned memory is checked when its turn comes.
    fn detached(&self, action: Action) -> Action {
        match action {
            Action::CopyIn { to, from, bytes } if !self.is_pinned(&from, bytes) => {
                let mut staged = vec![0; bytes];
                if bytes > 0 {
                    from.pointer().read_bytes(0, &mut staged);
                }
                Action::Write { to, bytes: staged }
            }
            Action::CopyIn { to, from, bytes } => Action::CopyWithin {
                to,
                from: from.pointer().handle(),
                bytes: bytes as u64,
            },
            Action::CopyOut { to, from, bytes } => Action::CopyWithin {
                to: to.pointer().handle(),
                from,
                bytes: bytes as u64,
            },
            action => action,
        }
    }

    /// Returns the work of an action on the device's SMs; an error if the client's function panicked.
    pub(super) fn work(&self, action: &Action) -> Result<Option<Work>, ()> {
        let Action::Kernel(kernel) = action else {
            return Ok(None);
        };
        let Some(cost) = registered(&self.costs, &kernel.name) else {
            return Ok(None);
        };
        let launch = kernel.as_seen(self, None);
        let cost = catch_unwind(AssertUnwindSafe(|| cost(&launch))).map_err(drop)?;
        Ok(Some(Work {
            blocks: launch.block_count(),
            threads: kernel.block.iter().product(),
            // Each block reserves 1 KiB.
            shared: kernel.shared_bytes + 1024,
            block_ns: cost.time.as_secs_f64() * 1e9,
            load: cost.load,
            priority: kernel.priority,
            sms: kernel.sm_ids.clone(),
        }))
    }

    /// Does the action now: only its time is virtual. Actions come in an order that their streams and events allow,
    /// so their effects do as well.
    pub(super) fn perform(&self, action: &Action, stopped: Option<&AtomicBool>) -> Answer {
        match action {
            Action::Kernel(kernel) => {
                self.run(kernel, stopped);
                Ok(())
            }
            Action::CopyIn { to, from, bytes } => self.copy_in(*to, from.pointer(), *bytes),
            Action::CopyOut { to, from, bytes } => self.copy_out(to.pointer(), *from, *bytes),
            Action::CopyWithin { to, from, bytes } => self.copy_within(*to, *from, *bytes),
            Action::Write { to, bytes } => self.write(*to, bytes),
            Action::Free(address) => self.memory().free(*address),
            Action::Fill {
                address,
                pattern,
                bytes,
            } => self.fill(*address, *pattern, *bytes),
            Action::Call(function) => self.call_host(function),
            // They only have a time.
            Action::Record(_) | Action::Wait(_) => Ok(()),
        }
    }

    fn run(&self, kernel: &KernelLaunch, stopped: Option<&AtomicBool>) {
        let Some(function) = registered(&self.kernels, &kernel.name) else {
            return;
        };
        let launch = kernel.as_seen(self, stopped);
        self.have_shared_sms(kernel, &launch);
        let ended = catch_unwind(AssertUnwindSafe(|| (function.run)(&launch)));
        let code = match (ended, launch.fault.get().map(|fault| fault.kind)) {
            (Err(_), _) => CUresult::CUDA_ERROR_LAUNCH_FAILED,
            (Ok(()), Some(FaultKind::NotAllocated)) => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            (Ok(()), Some(FaultKind::Misaligned)) => CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
            (Ok(()), Some(FaultKind::HostUpdate)) => CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            (Ok(()), Some(FaultKind::Stopped) | None) => return,
        };
        // As on a GPU, the launch itself succeeds, and every later call reports it.
        if !launch.is_stopped() {
            self.fault(code);
        }
    }
}

impl Driver {
    /// Has the kernel's SMs, of those that processes share, for the time of its blocks, and then gives them back.
    fn have_shared_sms(&self, kernel: &KernelLaunch, launch: &Launch<'_>) {
        let Some(file) = self.injections.shared_sms() else {
            return;
        };
        let Some(cost) = registered(&self.costs, &kernel.name) else {
            return;
        };
        let resident = self.resident_per_sm(kernel) * kernel.sm_ids.len() as u64;
        let rounds = launch.block_count().div_ceil(resident.max(1));
        let time = cost(launch).time * u32::try_from(rounds).unwrap_or(u32::MAX);
        if !time.is_zero() {
            shared_sms::occupy(&file, &kernel.sm_ids, time);
        }
    }

    /// Returns how many of a kernel's blocks an SM holds by their threads.
    fn resident_per_sm(&self, kernel: &KernelLaunch) -> u64 {
        let threads: u64 = kernel.block.iter().map(|n| u64::from(*n)).product();
        u64::from(self.profile.device.threads_per_sm()) / threads.max(1)
    }
}

/// Returns the entry registered under a name.
fn registered<T: Clone>(list: &RwLock<HashMap<String, T>>, name: &str) -> Option<T> {
    let list = list.read();
    list.get(name).cloned()
}

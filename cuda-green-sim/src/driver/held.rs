//! Held actions: those that run on threads of the driver, because they are kernels that run beside the client or
//! because they follow such a kernel. And the waits for them, during which other threads use the driver.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use cuda_green_sys::CUresult;

use super::{Driver, State, stream_actions::Action};
use crate::{
    sync::MutexGuard,
    timeline::{Held, LaneOf, Mark, QUERY_NS, Timeline},
};

/// An action that is not over.
pub(super) struct HeldAction {
    action: Arc<Action>,
    device: usize,
    /// Whether it has lost its context or its driver: what it does has no consequence any more.
    stopped: Arc<AtomicBool>,
}

/// Locked state, which a wait may release and lock again.
pub(super) type Locked<'d> = MutexGuard<'d, State>;

impl State {
    /// Keeps an action whose gate is closed.
    pub(super) fn hold(&mut self, held: &Held, device: usize, action: Arc<Action>) {
        let action = HeldAction {
            action,
            device,
            stopped: Arc::new(AtomicBool::new(self.fault.is_some() || self.ended)),
        };
        self.held.insert(held.op, action);
    }

    /// Spends the time of a query of work that is not done. If that waits for a gate, virtual time does not bring it
    /// nearer, and a loop of queries would only make the clock depend on the speed of the threads.
    pub(super) fn spend_on_query(&mut self, waits_for_gate: impl Fn(&Timeline) -> bool) {
        if !waits_for_gate(&self.timeline) {
            self.timeline.spend(QUERY_NS);
        }
    }

    /// Stops the held actions of these devices.
    pub(super) fn stop(&self, devices: impl Fn(usize) -> bool) {
        for held in self.held.values().filter(|held| devices(held.device)) {
            held.stopped.store(true, Ordering::Relaxed);
        }
    }
}

impl Driver {
    /// Starts the held actions before whose gates no other is closed, each on a thread.
    pub(super) fn start(&self, state: &mut State, ops: impl IntoIterator<Item = u64>) {
        let mut ops: Vec<u64> = ops.into_iter().collect();
        while let Some(op) = ops.pop() {
            let Some(driver) = self.this.upgrade() else {
                return;
            };
            let thread = std::thread::Builder::new().name("cuda-green-sim".to_owned());
            if thread.spawn(move || driver.run_held(op)).is_err() {
                // A launch that got no thread has failed.
                state.set_fault(CUresult::CUDA_ERROR_LAUNCH_FAILED);
                ops.extend(state.end_held(op));
            }
        }
    }

    /// Runs a held action to its end, and starts what followed it.
    fn run_held(&self, op: u64) {
        let found = self.lock().held.get(&op).map(|held| {
            let stopped = Arc::clone(&held.stopped);
            (Arc::clone(&held.action), stopped)
        });
        if let Some((action, stopped)) = found {
            let is_stopped = || stopped.load(Ordering::Relaxed);
            // A pool's memory outlives contexts, so it is freed in any case.
            let run = || match *action {
                Action::Free(_) => self.perform(&action, None),
                _ if is_stopped() => Ok(()),
                _ => self.perform(&action, Some(&stopped)),
            };
            let code = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(())) => None,
                // Freed memory is a fault of the work, not of the call.
                Ok(Err(_)) => Some(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
                Err(_) => Some(CUresult::CUDA_ERROR_LAUNCH_FAILED),
            };
            if let Some(code) = code.filter(|_| !is_stopped()) {
                self.fault(code);
            }
        }
        let mut state = self.lock();
        let next = state.end_held(op);
        self.start(&mut state, next);
        drop(state);
        self.changed.notify_all();
    }

    /// Sets a persistent fault, which ends every held action, as it ends every kernel on a GPU.
    pub(super) fn fault(&self, code: CUresult) {
        self.lock().set_fault(code);
        self.changed.notify_all();
    }

    /// Stops the held actions of lost devices.
    pub(super) fn stop_lost(&self) {
        let state = self.lock();
        state.stop(|device| self.present(device).is_err());
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the driver: the held actions are stopped, and the calls that wait for them return.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.stop(|_| true);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until no gate of this device is in the way, without the lock. Fails if that can no longer be.
    fn wait_for_gates<'d>(
        &'d self,
        mut state: Locked<'d>,
        device: usize,
        in_the_way: impl Fn(&Timeline) -> bool,
    ) -> Result<Locked<'d>, CUresult> {
        while in_the_way(&state.timeline) {
            state = self.changed.wait(state);
            if let Some(fault) = state.fault {
                return Err(fault);
            }
            if state.ended {
                return Err(CUresult::CUDA_ERROR_DEINITIALIZED);
            }
            self.present(device)?;
        }
        Ok(state)
    }

    /// Makes the host wait for recorded work of a device.
    pub(super) fn wait_mark<'d>(
        &'d self,
        state: Locked<'d>,
        device: usize,
        mark: &Mark,
    ) -> Result<Locked<'d>, CUresult> {
        let mut state =
            self.wait_for_gates(state, device, |timeline| timeline.mark_waits_for_gate(mark))?;
        state.timeline.wait_mark(mark);
        Ok(state)
    }

    /// Makes the host wait for the work that a device or one of its contexts has now.
    pub(super) fn wait_all<'d>(
        &'d self,
        state: Locked<'d>,
        device: usize,
        context: Option<u64>,
    ) -> Result<Locked<'d>, CUresult> {
        let work = state.timeline.work_of(device, context);
        let mut state = self.wait_for_gates(state, device, |timeline| {
            work.iter().any(|op| timeline.waits_for_gate(*op))
        })?;
        state.timeline.wait_work(&work);
        Ok(state)
    }

    /// Waits until new work in a lane would have no gate before it.
    pub(super) fn wait_for_lane<'d>(
        &'d self,
        mut state: Locked<'d>,
        of: LaneOf,
    ) -> Result<Locked<'d>, CUresult> {
        while state.timeline.next_waits_for_gate(of) {
            let mark = state.timeline.mark(of);
            state = self.wait_for_gates(state, of.device, |timeline| {
                timeline.mark_waits_for_gate(&mark)
            })?;
        }
        Ok(state)
    }
}

impl State {
    /// Sets a persistent fault, unless there is one.
    fn set_fault(&mut self, code: CUresult) {
        self.fault.get_or_insert(code);
        self.stop(|_| true);
    }

    /// Forgets a held action that is over. Returns the work whose effect may begin now.
    fn end_held(&mut self, op: u64) -> Vec<u64> {
        self.held.remove(&op);
        self.timeline.open(op)
    }
}

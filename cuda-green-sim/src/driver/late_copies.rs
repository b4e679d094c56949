//! Copies from pageable host memory that finish after their call has returned.
//!
//! `cuMemcpyHtoD` returns once the bytes are staged. The rest of the copy is work in the default stream of the
//! current context, and non-blocking streams do not wait for that. On an H200 (driver 580), such a stream then read
//! stale data in 19 of 20 tries from 64 KiB on, and its own writes were overwritten; copies up to 32 KiB were always
//! done. The delay varies there; here it is always the same virtual time.

use super::{Driver, State};
use crate::{
    sync::MutexGuard,
    timeline::{Lane, LaneOf},
};

/// Largest copy in bytes that is done when the call returns.
pub(super) const DONE_AT_RETURN: usize = 32 << 10;
/// Virtual time from the return of a larger copy to its end.
const LATE_NS: u64 = 20_000;

/// A staged copy: its bytes arrive at an address at a given time.
pub(super) struct LateCopy {
    device: usize,
    context: u64,
    due: u64,
    to: u64,
    bytes: Vec<u8>,
}

impl Driver {
    /// Stages a copy in a default stream.
    pub(super) fn copy_late(&self, state: &mut State, of: LaneOf, to: u64, bytes: Vec<u8>) {
        state.late_copies.push(LateCopy {
            device: of.device,
            context: of.context,
            due: state.timeline.now() + LATE_NS,
            to,
            bytes,
        });
    }

    /// Does the copies that are due.
    pub(super) fn do_due_copies(&self, state: &mut State) {
        let now = state.timeline.now();
        self.do_copies(state, |copy| copy.due <= now);
    }

    /// Waits for the copies that work in a lane follows: those of its context, if it is the default stream or a
    /// stream that waits for that.
    pub(super) fn after_late_copies(&self, state: &mut State, of: LaneOf) {
        if matches!(of.lane, Lane::Legacy(_)) || of.blocking {
            self.wait_for_copies(state, |copy| copy.context == of.context);
        }
    }

    /// Waits for all copies of a device, or of one of its contexts.
    pub(super) fn wait_for_late_copies(
        &self,
        state: &mut State,
        device: usize,
        context: Option<u64>,
    ) {
        self.wait_for_copies(state, |copy| {
            copy.device == device && context.is_none_or(|context| copy.context == context)
        });
    }

    fn wait_for_copies(&self, state: &mut State, which: impl Fn(&LateCopy) -> bool) {
        let last = state.late_copies.iter().filter(|copy| which(copy));
        if let Some(last) = last.map(|copy| copy.due).max() {
            let now = state.timeline.now();
            state.timeline.spend(last.saturating_sub(now));
            self.do_copies(state, |copy| which(copy) || copy.due <= last);
        }
    }

    fn do_copies(&self, state: &mut State, which: impl Fn(&LateCopy) -> bool) {
        if state.late_copies.is_empty() {
            return;
        }
        let copies = std::mem::take(&mut state.late_copies);
        let (done, left): (Vec<_>, Vec<_>) = copies.into_iter().partition(|copy| which(copy));
        state.late_copies = left;
        let mut memory = self.memory();
        for copy in done {
            // A GPU, too, writes to memory that was freed meanwhile, whoever owns it then.
            let _ = memory.write(copy.to, &copy.bytes);
        }
    }

    /// Locks the state, and does what is due.
    pub(super) fn lock_up_to_date(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        self.do_due_copies(&mut state);
        state
    }
}

//! The consumer of a ring.

use super::{memory::Shared, ring::Ring, slot::TaskHeader};
use crate::layout::CLOSED;

/// The one consumer of a ring: its place in it, and what it last told the producers.
///
/// Take a task by [`peek`](Self::peek), [`copy`](Self::copy), [`advance`](Self::advance), in this order; call
/// [`tell`](Self::tell) before going idle.
#[derive(Debug)]
pub(crate) struct Consumer {
    ring: Ring,
    /// The next ticket.
    position: u64,
    /// The tail as it was last stored.
    told: u64,
    /// Tasks after which the tail is stored.
    tell_after: u64,
    closed: bool,
}

impl Consumer {
    /// Starts at the tail that is stored in the ring.
    pub(crate) fn new(ring: Ring, shared: &impl Shared) -> Self {
        // Acquire: it may have been stored by the consumer before this one.
        let tail = shared.load_acquire(ring.tail);
        Self {
            ring,
            position: tail & !CLOSED,
            told: tail & !CLOSED,
            // An eighth of the ring: producers learn of it in time, and the line is not written for each task.
            tell_after: (ring.depth() / 8).clamp(1, 64),
            closed: tail & CLOSED != 0,
        }
    }

    /// Returns the next task's header, if one was committed.
    ///
    /// Its numbers are whatever a kernel wrote: the length may exceed [`Ring::payload_bytes`].
    #[inline]
    pub(crate) fn peek(&self, shared: &impl Shared) -> Option<TaskHeader> {
        TaskHeader::read(shared, &self.ring, self.position)
    }

    /// Copies the next task's payload, as many bytes as `out` has and the slot has room for; the rest is zeros.
    #[inline]
    pub(crate) fn copy(&self, shared: &impl Shared, out: &mut [u8]) {
        self.ring.read_payload(shared, self.position, out);
    }

    /// Goes to the next slot. Gives this one back at once or a little later.
    #[inline]
    pub(crate) fn advance(&mut self, shared: &impl Shared) {
        self.position += 1;
        if self.position - self.told >= self.tell_after {
            self.tell(shared);
        }
    }

    /// Gives all slots back that were consumed, unless the ring is closed.
    #[inline]
    pub(crate) fn tell(&mut self, shared: &impl Shared) {
        if self.closed || self.told == self.position {
            return;
        }
        shared.store_release(self.ring.tail, self.position);
        self.told = self.position;
    }

    /// Closes the ring: no more slots are given back, so at most as many tasks as it has slots are accepted from now
    /// on. Those have to be consumed, and answered, as before.
    pub(crate) fn close(&mut self, shared: &impl Shared) {
        if self.closed {
            return;
        }
        self.closed = true;
        shared.store_release(self.ring.tail, self.told | CLOSED);
    }

    /// Returns whether the slot that many places after the next one was committed: then at least `ahead + 1` tasks wait.
    /// Returns `false` beyond the ring's depth.
    pub(crate) fn is_filled(&self, shared: &impl Shared, ahead: u64) -> bool {
        ahead < self.ring.depth()
            && TaskHeader::read(shared, &self.ring, self.position + ahead).is_some()
    }

    /// Returns whether the ring is closed.
    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns the number of the next ticket: the number of tasks that were consumed, if the first was 0.
    #[cfg(test)]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Returns the ring.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }
}

//! The producers' steps: credits, tickets, and the refill from the consumer's tail.

use std::{hint, mem::offset_of, thread};

use super::{
    memory::{Local, Shared},
    ring::Ring,
    slot::TaskHeader,
};
use crate::layout::{CLOSED, RingState};

pub(super) const CREDITS: u64 = offset_of!(RingState, credits) as u64;
pub(super) const HEAD: u64 = offset_of!(RingState, head) as u64;
pub(super) const SEEN_TAIL: u64 = offset_of!(RingState, seen_tail) as u64;
pub(super) const REFILLING: u64 = offset_of!(RingState, refilling) as u64;
pub(super) const REFUSED: u64 = offset_of!(RingState, refused) as u64;

/// Looks for credits that another thread is about to add, and further ones after each of which it yields.
const LOOKS: u32 = 100;
const YIELDS: u32 = 20;

/// The outcome of [`Ring::reserve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reservation {
    /// The first of as many neighbouring tickets as were asked for. Each must be committed.
    Tickets(u64),
    /// The ring has too few free slots.
    Full,
    /// Another producer is reading the tail, and credits may come within a microsecond or two.
    Refilling,
    /// The consumer has closed the ring, and what it still accepted has been taken.
    Closed,
}

/// The outcome of a refill.
enum Refill {
    /// Another producer refills.
    Busy,
    /// Credits for the caller itself.
    Taken,
    /// Credits for anyone, fewer than the caller wants.
    Added { some: bool, closed: bool },
}

impl Ring {
    /// Reserves slots: takes credits, then tickets.
    ///
    /// More tickets than the ring has slots are never there: [`Full`](Reservation::Full).
    #[inline]
    pub(crate) fn reserve(
        &self,
        shared: &impl Shared,
        local: &impl Local,
        count: u32,
    ) -> Reservation {
        let count = u64::from(count);
        // Without a look at the credits before: that would be a trip to memory more, and they rarely run out.
        if self.take_credits(local, count) {
            return self.take_tickets(local, count);
        }
        self.reserve_by_refill(shared, local, count)
    }

    /// Reserves as [`reserve`](Self::reserve) does, for one that was refused before: looks at the credits first, since
    /// taking and giving back disturbs others.
    pub(crate) fn reserve_again(
        &self,
        shared: &impl Shared,
        local: &impl Local,
        count: u32,
    ) -> Reservation {
        if self.credits(local) >= i64::from(count) {
            return self.reserve(shared, local, count);
        }
        self.reserve_by_refill(shared, local, count.into())
    }

    /// Reserves as [`reserve`](Self::reserve) does, and looks again while another thread is about to add credits. One that
    /// was preempted in that gets some time to go on.
    #[inline]
    pub(crate) fn reserve_after_refill(
        &self,
        shared: &impl Shared,
        local: &impl Local,
        count: u32,
    ) -> Reservation {
        let mut reservation = self.reserve(shared, local, count);
        for look in 0..LOOKS + YIELDS {
            if reservation != Reservation::Refilling {
                break;
            }
            if look < LOOKS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
            reservation = self.reserve_again(shared, local, count);
        }
        reservation
    }

    fn reserve_by_refill(
        &self,
        shared: &impl Shared,
        local: &impl Local,
        count: u64,
    ) -> Reservation {
        match self.refill(shared, local, count) {
            Refill::Busy => Reservation::Refilling,
            Refill::Taken => self.take_tickets(local, count),
            Refill::Added { some, closed } => {
                // With what there was they may be enough.
                if some && self.credits(local) >= count as i64 && self.take_credits(local, count) {
                    self.take_tickets(local, count)
                } else if closed {
                    Reservation::Closed
                } else {
                    Reservation::Full
                }
            }
        }
    }

    /// Counts a submission that was refused because the ring was full.
    pub(crate) fn count_refused(&self, local: &impl Local, count: u32) {
        local.add(self.state + REFUSED, count.into());
    }

    /// Returns the number of submissions that were refused because the ring was full.
    #[cfg(test)]
    pub(crate) fn refused(&self, local: &impl Local) -> u64 {
        local.get(self.state + REFUSED)
    }

    /// Writes a task into a reserved slot and publishes it. The payload must fit: it is cut otherwise.
    #[inline]
    pub(crate) fn commit(
        &self,
        shared: &impl Shared,
        ticket: u64,
        header: &TaskHeader,
        payload: &[u8],
    ) {
        header.write(shared, self, ticket, payload);
    }

    /// Reads the consumer's tail if these tickets were the last of an eighth of the ring, so that credits rarely run
    /// out. To be called after they were committed: nobody waits for it.
    #[inline]
    pub(crate) fn replenish(
        &self,
        shared: &impl Shared,
        local: &impl Local,
        ticket: u64,
        count: u32,
    ) {
        let stride_log2 = self.depth_log2.saturating_sub(3);
        if ticket >> stride_log2 != (ticket + u64::from(count)) >> stride_log2 {
            self.refill(shared, local, 0);
        }
    }

    pub(super) fn credits(&self, local: &impl Local) -> i64 {
        local.get(self.state + CREDITS) as i64
    }

    #[inline]
    fn take_credits(&self, local: &impl Local, count: u64) -> bool {
        let at = self.state + CREDITS;
        if local.add(at, count.wrapping_neg()) as i64 >= count as i64 {
            return true;
        }
        // Only credits are given back, never a ticket, so that nothing can be lost.
        local.add(at, count);
        false
    }

    #[inline]
    fn take_tickets(&self, local: &impl Local, count: u64) -> Reservation {
        Reservation::Tickets(local.add(self.state + HEAD, count))
    }

    /// Grants credits for what was consumed since the last refill, unless another producer is at it: loads of one host
    /// address are served one after the other, a microsecond each.
    ///
    /// Takes `count` of them for the caller first, so that one who reads the tail gets on whatever others do.
    fn refill(&self, shared: &impl Shared, local: &impl Local, count: u64) -> Refill {
        if local.exchange32(self.state + REFILLING, 1) != 0 {
            return Refill::Busy;
        }
        let tail = shared.load_acquire(self.tail);
        let seen = local.get(self.state + SEEN_TAIL);
        let mut granted = (tail & !CLOSED).wrapping_sub(seen);
        // The tail is the other side's word. One that went back, or too far, grants nothing.
        if granted > self.depth() {
            granted = 0;
        }
        local.set(self.state + SEEN_TAIL, seen + granted);
        let taken = count > 0 && granted >= count;
        if taken {
            granted -= count;
        }
        if granted > 0 {
            local.add(self.state + CREDITS, granted);
        }
        local.set32_release(self.state + REFILLING, 0);
        if taken {
            Refill::Taken
        } else {
            Refill::Added {
                some: granted > 0,
                closed: tail & CLOSED != 0,
            }
        }
    }
}

//! The addresses of a queue's parts, and of one ring's.

use super::{
    futures::FutureTable,
    memory::{Local, Shared},
};
#[cfg(feature = "test-utils")]
use crate::layout::DeviceInbox;
use crate::layout::{
    CLOSED, DeviceQueue, FIRST_FUTURE, LINE, Layout, MAGIC, RingState, VERSION, sequence,
};

/// Where the parts of a queue begin: addresses or offsets, as the memory takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// The segment, of [`Layout::end`] bytes.
    pub(crate) segment: u64,
    /// A [`RingState`] for each ring.
    pub(crate) rings: u64,
    /// A word of 4 bytes for each future.
    pub(crate) futures: u64,
}

impl DeviceQueue {
    /// Describes the queue of a layout.
    pub(crate) fn new(layout: &Layout, places: &Places, flags: u8) -> Self {
        Self {
            magic: MAGIC,
            slots: places.segment + layout.slots(),
            tails: places.segment + layout.tails(),
            answers: places.segment + layout.answers(),
            rings: places.rings,
            futures: places.futures,
            version: VERSION,
            future_count: layout.futures,
            lanes: layout.lanes as u16,
            priorities: layout.priorities as u16,
            depth_log2: layout.depth.trailing_zeros() as u8,
            slot_log2: layout.slot_bytes.trailing_zeros() as u8,
            answer_log2: layout.answer_bytes.trailing_zeros() as u8,
            flags,
        }
    }

    /// Returns the ring of a lane and a priority.
    pub(crate) fn ring(&self, lane: u32, priority: u32) -> Option<Ring> {
        let (lanes, priorities) = (self.lanes.into(), self.priorities.into());
        if lane >= lanes || priority >= priorities {
            return None;
        }
        let number = u64::from(lane * priorities + priority);
        let ring_log2 = self.depth_log2 + self.slot_log2;
        Some(Ring {
            slots: self.slots + (number << ring_log2),
            tail: self.tails + number * LINE,
            state: self.rings + number * size_of::<RingState>() as u64,
            depth_log2: self.depth_log2.into(),
            slot_log2: self.slot_log2.into(),
        })
    }

    /// Returns the table of the futures.
    pub(crate) fn future_table(&self) -> FutureTable {
        FutureTable {
            words: self.futures,
            answers: self.answers,
            count: self.future_count,
            answer_log2: self.answer_log2.into(),
        }
    }

    /// Returns the bytes that the futures' words take.
    pub(crate) fn future_bytes(layout: &Layout) -> u64 {
        u64::from(layout.futures) * 4
    }

    /// Returns the bytes that the states of the rings take.
    pub(crate) fn ring_state_bytes(layout: &Layout) -> u64 {
        u64::from(layout.rings()) * size_of::<RingState>() as u64
    }
}

#[cfg(feature = "test-utils")]
impl DeviceInbox {
    /// Returns the ring of a lane and a priority, as its consumer sees it: without the producers' state.
    pub(crate) fn ring(&self, lane: u32, priority: u32) -> Option<Ring> {
        self.queue().ring(lane, priority)
    }

    /// Returns the table of the answers, as whoever answers sees it: without the futures' words.
    pub(crate) fn future_table(&self) -> FutureTable {
        self.queue().future_table()
    }

    /// Returns the queue that the tasks come through, without what its producers alone access.
    fn queue(&self) -> DeviceQueue {
        DeviceQueue {
            magic: MAGIC,
            slots: self.slots,
            tails: self.tails,
            answers: self.answers,
            rings: 0,
            futures: 0,
            version: self.version,
            future_count: self.future_count,
            lanes: self.lanes,
            priorities: self.priorities,
            depth_log2: self.depth_log2,
            slot_log2: self.slot_log2,
            answer_log2: self.answer_log2,
            flags: self.flags,
        }
    }
}

/// The first contents of the futures' words, for a copy into device memory.
pub(crate) fn first_futures(layout: &Layout) -> Vec<u32> {
    vec![FIRST_FUTURE; layout.futures as usize]
}

/// The first state of a ring.
pub(crate) fn first_state(layout: &Layout) -> RingState {
    RingState {
        credits: layout.depth.into(),
        ..bytemuck::Zeroable::zeroed()
    }
}

/// The addresses of one ring. A copy is as good as the ring: all state lies in the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(super) slots: u64,
    pub(crate) tail: u64,
    pub(super) state: u64,
    pub(super) depth_log2: u32,
    pub(super) slot_log2: u32,
}

impl Ring {
    /// Returns the number of slots.
    #[inline]
    pub(crate) fn depth(&self) -> u64 {
        1 << self.depth_log2
    }

    /// Returns the address of a ticket's slot.
    #[inline]
    pub(super) fn slot(&self, ticket: u64) -> u64 {
        self.slots + ((ticket & (self.depth() - 1)) << self.slot_log2)
    }

    /// Returns the sequence of a ticket.
    #[inline]
    pub(super) fn sequence(&self, ticket: u64) -> u32 {
        sequence(ticket, self.depth_log2)
    }

    /// Returns the bytes of a payload that a slot has room for.
    #[inline]
    pub(crate) fn payload_bytes(&self) -> usize {
        (1 << self.slot_log2) - crate::layout::SLOT_HEADER as usize
    }

    /// Returns whether the consumer has closed the ring. A submission that fails before it reserves a slot, since there is no
    /// entry for the answer, says so by this: the entries may be held for ever by those who got their answers.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn is_closed(&self, shared: &impl Shared) -> bool {
        shared.load_acquire(self.tail) & CLOSED != 0
    }

    /// Returns whether a ticket's slot was committed, in its lap or since then.
    pub(crate) fn is_committed(&self, shared: &impl Shared, ticket: u64) -> bool {
        let sequence = (shared.load_acquire(self.slot(ticket)) >> 32) as u32;
        sequence.wrapping_sub(self.sequence(ticket)) as i32 >= 0
    }

    /// Returns the number of tasks that were submitted and not consumed, or whose slots were not given back yet.
    pub(crate) fn waiting(&self, shared: &impl Shared, local: &impl Local) -> u64 {
        let (taken, submitted, _) = self.counts(shared, local);
        submitted.wrapping_sub(taken)
    }

    /// Returns how many tasks were taken, as the consumer last said, were submitted, and were refused.
    pub(crate) fn counts(&self, shared: &impl Shared, local: &impl Local) -> (u64, u64, u64) {
        use super::reserve::{HEAD, REFUSED};
        let taken = shared.load_acquire(self.tail) & !CLOSED;
        let submitted = local.get(self.state + HEAD);
        (taken, submitted, local.get(self.state + REFUSED))
    }

    /// Makes memory of any contents an empty ring whose first ticket is `start`, before anyone uses it.
    pub(crate) fn initialize(&self, shared: &impl Shared, local: &impl Local, start: u64) {
        use super::reserve::{CREDITS, HEAD, REFILLING, REFUSED, SEEN_TAIL};
        for ticket in start..start + self.depth() {
            // Any number but the ticket's own. Zero would be wrong where the sequence wraps.
            let earlier = u64::from(self.sequence(ticket).wrapping_sub(1)) << 32;
            shared.store(self.slot(ticket), earlier);
        }
        shared.store(self.tail, start);
        local.set(self.state + CREDITS, self.depth());
        local.set(self.state + HEAD, start);
        local.set(self.state + SEEN_TAIL, start);
        local.set(self.state + REFUSED, 0);
        local.set32_release(self.state + REFILLING, 0);
    }
}

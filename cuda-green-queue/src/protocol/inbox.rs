//! Rings that the CPU fills for a resident kernel: slots of words that each tell the sequence.
//!
//! Reserving, the tail and the answers are those of any ring; the slots are not. A GPU reads a slot in one trip over the
//! bus, all words at once and in any order, so each word says for itself whether it is of this lap.

use super::{memory::Shared, ring::Ring, slot::TaskHeader};
use crate::layout::{
    DeviceInbox, DeviceQueue, INBOX_HEADER_WORDS, INBOX_MAGIC, InboxPosition, Layout,
};

impl DeviceInbox {
    /// Describes the inbox whose tasks come through `queue`, with the addresses of the first lane's control and of the
    /// first ring's position.
    pub(crate) fn new(queue: &DeviceQueue, controls: u64, positions: u64) -> Self {
        Self {
            magic: INBOX_MAGIC,
            slots: queue.slots,
            tails: queue.tails,
            answers: queue.answers,
            controls,
            positions,
            version: queue.version,
            future_count: queue.future_count,
            lanes: queue.lanes,
            priorities: queue.priorities,
            depth_log2: queue.depth_log2,
            slot_log2: queue.slot_log2,
            answer_log2: queue.answer_log2,
            flags: queue.flags,
        }
    }

    /// Returns the address of a lane's control.
    #[cfg(feature = "test-utils")]
    pub(crate) fn control(&self, lane: u32) -> u64 {
        self.controls + u64::from(lane) * crate::layout::LINE
    }

    /// Returns the address of the position in a ring.
    #[cfg(feature = "test-utils")]
    pub(crate) fn position(&self, lane: u32, priority: u32) -> u64 {
        let number = u64::from(lane) * u64::from(self.priorities) + u64::from(priority);
        self.positions + number * size_of::<InboxPosition>() as u64
    }

    /// Returns the bytes that the positions take.
    pub(crate) fn position_bytes(layout: &Layout) -> u64 {
        u64::from(layout.rings()) * size_of::<InboxPosition>() as u64
    }
}

impl Ring {
    /// Returns the bytes of a payload that a slot of self-validating words has room for.
    pub(crate) fn inbox_payload_bytes(&self) -> usize {
        let words = (1_usize << self.slot_log2) / 8;
        words.saturating_sub(INBOX_HEADER_WORDS as usize) * 4
    }

    /// Writes a task into a reserved slot of an inbox. The payload must fit: it is cut otherwise.
    #[inline]
    pub(crate) fn commit_words(
        &self,
        shared: &impl Shared,
        ticket: u64,
        header: &TaskHeader,
        payload: &[u8],
    ) {
        let at = self.slot(ticket);
        let word = |data: u32| u64::from(self.sequence(ticket)) << 32 | u64::from(data);
        let room = payload.len().min(self.inbox_payload_bytes());
        for (i, bytes) in (3..).zip(payload[..room].chunks(4)) {
            let mut data = [0; 4];
            data[..bytes.len()].copy_from_slice(bytes);
            shared.store(at + 8 * i, word(u32::from_le_bytes(data)));
        }
        shared.store(at + 16, word(header.generation));
        shared.store(at + 8, word(header.future));
        // Release, for other memory that the task is about.
        let first = u32::from(header.method) << 16 | u32::from(header.length);
        shared.store_release(at, word(first));
    }

    /// Returns the task in a ticket's slot, if all words that its length tells have arrived, and copies as much of the
    /// payload as `out` has room for; the rest is zeros.
    ///
    /// The first word is loaded last here, and the others may be of any time before: the loads of a warp have no order.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn read_words(
        &self,
        shared: &impl Shared,
        ticket: u64,
        out: &mut [u8],
    ) -> Option<TaskHeader> {
        let at = self.slot(ticket);
        let sequence = self.sequence(ticket);
        let data = |word: u64| ((word >> 32) as u32 == sequence).then_some(word as u32);
        let room = self.inbox_payload_bytes();
        out.fill(0);
        let mut chunks = out.chunks_mut(4);
        let mut matching = 0;
        for i in 0..room as u64 / 4 {
            let Some(bytes) = data(shared.load(at + 24 + 8 * i)) else {
                break;
            };
            matching += 1;
            if let Some(chunk) = chunks.next() {
                chunk.copy_from_slice(&bytes.to_le_bytes()[..chunk.len()]);
            }
        }
        let generation = data(shared.load(at + 16));
        let future = data(shared.load(at + 8));
        let first = data(shared.load_acquire(at))?;
        let length = first as u16;
        let whole = room.min(length.into());
        if matching < whole.div_ceil(4) {
            return None;
        }
        if let Some(rest) = out.get_mut(whole..) {
            rest.fill(0);
        }
        Some(TaskHeader {
            method: (first >> 16) as u16,
            length,
            future: future?,
            generation: generation?,
        })
    }
}

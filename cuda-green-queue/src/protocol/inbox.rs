//! Rings that the CPU fills for a resident kernel: slots of words that each tell the sequence.
//!
//! Reserving, the tail and the answers are those of any ring; the slots are not. A GPU reads a slot in one trip over the
//! bus, all words at once and in any order, so each word says for itself whether it is of this lap.

use super::{memory::Shared, ring::Ring, slot::TaskHeader};
use crate::layout::{
    DeviceInbox, INBOX_HEADER_WORDS, INBOX_MAGIC, InboxPosition, LINE, Layout, VERSION,
};

/// Where the parts of an inbox begin: addresses or offsets, as the memory takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboxPlaces {
    /// The first tail, slot and answer.
    pub(crate) tails: u64,
    pub(crate) slots: u64,
    pub(crate) answers: u64,
    /// A line for each lane.
    pub(crate) controls: u64,
    /// An [`InboxPosition`] for each ring.
    pub(crate) positions: u64,
}

impl DeviceInbox {
    /// Describes the inbox of a layout.
    pub(crate) fn new(layout: &Layout, places: &InboxPlaces, flags: u8) -> Self {
        Self {
            magic: INBOX_MAGIC,
            slots: places.slots,
            tails: places.tails,
            answers: places.answers,
            controls: places.controls,
            positions: places.positions,
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

    /// Returns the address of a lane's control.
    pub(crate) fn control(&self, lane: u32) -> u64 {
        self.controls + u64::from(lane) * LINE
    }

    /// Returns the address of the position in a ring.
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
    /// payload as `out` has room for.
    pub(crate) fn read_words(
        &self,
        shared: &impl Shared,
        ticket: u64,
        out: &mut [u8],
    ) -> Option<TaskHeader> {
        let at = self.slot(ticket);
        let sequence = self.sequence(ticket);
        let data = |word: u64| ((word >> 32) as u32 == sequence).then_some(word as u32);
        let first = data(shared.load_acquire(at))?;
        let future = data(shared.load(at + 8))?;
        let generation = data(shared.load(at + 16))?;
        let length = first as u16;
        let room = usize::from(length).min(self.inbox_payload_bytes());
        let mut out = out.chunks_mut(4);
        for i in 0..room.div_ceil(4) as u64 {
            let bytes = data(shared.load(at + 24 + 8 * i))?.to_le_bytes();
            if let Some(chunk) = out.next() {
                chunk.copy_from_slice(&bytes[..chunk.len()]);
            }
        }
        Some(TaskHeader {
            method: (first >> 16) as u16,
            length,
            future,
            generation,
        })
    }
}

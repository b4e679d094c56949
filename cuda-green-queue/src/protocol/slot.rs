//! The words of a slot.

use super::{memory::Shared, ring::Ring};
use crate::layout::SLOT_HEADER;

/// The two words before a task's payload, but for the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskHeader {
    pub(crate) method: u16,
    /// Bytes of the payload.
    pub(crate) length: u16,
    /// The number of the answer's entry, or [`NO_FUTURE`](crate::layout::NO_FUTURE).
    pub(crate) future: u32,
    pub(crate) generation: u32,
}

impl TaskHeader {
    /// Describes a task that wants no answer.
    #[cfg(test)]
    pub(crate) fn without_answer(method: u16, length: u16) -> Self {
        Self {
            method,
            length,
            future: crate::layout::NO_FUTURE,
            generation: 0,
        }
    }

    /// Writes a task into its slot, the first word last.
    #[inline]
    pub(super) fn write(&self, shared: &impl Shared, ring: &Ring, ticket: u64, payload: &[u8]) {
        let at = ring.slot(ticket);
        let room = payload.len().min(ring.payload_bytes());
        shared.write(at + SLOT_HEADER, &payload[..room]);
        shared.write_word(
            at + 8,
            u64::from(self.generation) << 32 | u64::from(self.future),
        );
        let sequence = u64::from(ring.sequence(ticket));
        let word = sequence << 32 | u64::from(self.method) << 16 | u64::from(self.length);
        shared.store_release(at, word);
    }

    /// Returns the header of a ticket's slot if it was committed.
    #[inline]
    pub(crate) fn read(shared: &impl Shared, ring: &Ring, ticket: u64) -> Option<Self> {
        let at = ring.slot(ticket);
        let word = shared.load_acquire(at);
        if (word >> 32) as u32 != ring.sequence(ticket) {
            return None;
        }
        let second = shared.read_word(at + 8);
        Some(Self {
            method: (word >> 16) as u16,
            length: word as u16,
            future: second as u32,
            generation: (second >> 32) as u32,
        })
    }
}

impl Ring {
    /// Copies the payload of a committed slot, as many bytes as `out` has and the slot has room for; the rest is zeros.
    #[inline]
    pub(crate) fn read_payload(&self, shared: &impl Shared, ticket: u64, out: &mut [u8]) {
        let room = out.len().min(self.payload_bytes());
        let (payload, rest) = out.split_at_mut(room);
        shared.read(self.slot(ticket) + SLOT_HEADER, payload);
        rest.fill(0);
    }
}

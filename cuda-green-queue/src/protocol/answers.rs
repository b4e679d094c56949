//! Answers: words that each tell their generation.

use super::{
    futures::{Call, FutureTable},
    memory::Shared,
};

/// An answer's status and the bytes of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// One of [`status`](crate::layout::status), or whatever the other side wrote.
    pub(crate) status: u8,
    /// Bytes of the output.
    pub(crate) length: u32,
}

/// Writes the answer to a call, the first word last. Returns `false` if there is no such entry, or if the output has no
/// room in it; nothing is written then.
///
/// The numbers may be whatever a kernel wrote: one that names an entry that is not its own harms the queue's other
/// calls, but nothing else.
#[inline]
pub(crate) fn answer(
    shared: &impl Shared,
    table: &FutureTable,
    call: Call,
    status: u8,
    output: &[u8],
) -> bool {
    let Some(at) = table.answer_at(call.future) else {
        return false;
    };
    if output.len() > table.output_bytes() {
        return false;
    }
    let generation = u64::from(call.generation) << 32;
    for (i, bytes) in output.chunks(4).enumerate() {
        let mut data = [0; 4];
        data[..bytes.len()].copy_from_slice(bytes);
        let word = generation | u64::from(u32::from_le_bytes(data));
        shared.store(at + 8 + 8 * i as u64, word);
    }
    let first = generation | (output.len() as u64) << 8 | u64::from(status);
    shared.store_release(at, first);
    true
}

/// Returns the answer to a call if it has arrived, and copies as much of the output as `out` has room for.
///
/// All words are loaded in one round, and the words of the output before the first, so that on a GPU the loads are in
/// flight together; a word of another generation means that the answer has not arrived in full.
pub(super) fn poll(
    shared: &impl Shared,
    table: &FutureTable,
    call: Call,
    out: &mut [u8],
) -> Option<Answer> {
    let at = table.answer_at(call.future)?;
    let room = out.len().min(table.output_bytes());
    let mut matching = 0;
    for (i, bytes) in out[..room].chunks_mut(4).enumerate() {
        let word = shared.load(at + 8 + 8 * i as u64);
        if (word >> 32) as u32 == call.generation && matching == i {
            matching += 1;
        }
        bytes.copy_from_slice(&(word as u32).to_le_bytes()[..bytes.len()]);
    }
    let first = shared.load_acquire(at);
    let answer = Answer {
        status: first as u8,
        length: (first as u32) >> 8,
    };
    let words = room.min(answer.length as usize).div_ceil(4);
    let arrived = (first >> 32) as u32 == call.generation && answer.status != 0;
    (arrived && matching >= words).then_some(answer)
}

/// Returns whether the answer of a generation has been written.
pub(super) fn has_arrived(shared: &impl Shared, table: &FutureTable, call: Call) -> bool {
    poll(shared, table, call, &mut []).is_some()
}

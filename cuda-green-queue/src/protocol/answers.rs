//! Answers: a first word, written last, that tells the generation, and the output after it.

use super::{
    futures::{Call, FutureTable},
    memory::Shared,
};
use crate::layout::ANSWER_HEADER;

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
    shared.write(at + ANSWER_HEADER, output);
    let generation = u64::from(call.generation) << 32;
    let first = generation | (output.len() as u64) << 8 | u64::from(status);
    shared.store_release(at, first);
    true
}

/// Returns the answer to a call if it has arrived, and copies as much of the output as `out` has room for.
pub(super) fn poll(
    shared: &impl Shared,
    table: &FutureTable,
    call: Call,
    out: &mut [u8],
) -> Option<Answer> {
    let at = table.answer_at(call.future)?;
    let first = shared.load_acquire(at);
    let answer = Answer {
        status: first as u8,
        length: (first as u32) >> 8,
    };
    if (first >> 32) as u32 != call.generation || answer.status == 0 {
        return None;
    }
    let room = out.len().min(table.output_bytes());
    let length = room.min(answer.length as usize);
    shared.read(at + ANSWER_HEADER, &mut out[..length]);
    Some(answer)
}

/// Returns whether the answer of a generation has been written.
pub(super) fn has_arrived(shared: &impl Shared, table: &FutureTable, call: Call) -> bool {
    poll(shared, table, call, &mut []).is_some()
}

//! The table of futures: entries that callers take, give back and abandon.

use super::{
    answers::{self, Answer},
    memory::{Local, Shared},
};
use crate::layout::{ANSWER_HEADER, FIRST_FUTURE, status};

/// Entries that a call tries before it looks at all others.
const PROBES: u32 = 32;
const TAKEN: u32 = 1;
const ABANDONED: u32 = 2;

/// The addresses of the futures' words and of their answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FutureTable {
    pub(super) words: u64,
    pub(super) answers: u64,
    /// A power of two.
    pub(super) count: u32,
    pub(super) answer_log2: u32,
}

/// An entry that was taken, and the generation of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) future: u32,
    pub(crate) generation: u32,
}

impl FutureTable {
    /// Takes a free entry: first one that was given back, then one that was abandoned and whose answer has arrived since.
    /// Looks near a place, and elsewhere only if there is none. Returns `None` if no entry was free.
    pub(crate) fn take(&self, shared: &impl Shared, local: &impl Local, near: u32) -> Option<Call> {
        let probes = PROBES.min(self.count);
        let entry = |i| near.wrapping_add(i) & (self.count - 1);
        self.take_among(shared, local, (0..probes).map(entry))
            .or_else(|| {
                // A look disturbs others less than an attempt.
                let may_be_free = |&future: &u32| {
                    local.get32(self.word_at(future)) & (TAKEN | ABANDONED) != TAKEN
                };
                let others = (probes..self.count).map(entry).filter(may_be_free);
                self.take_among(shared, local, others)
            })
    }

    fn take_among(
        &self,
        shared: &impl Shared,
        local: &impl Local,
        entries: impl Iterator<Item = u32> + Clone,
    ) -> Option<Call> {
        entries
            .clone()
            .find_map(|future| self.take_free(local, future))
            .or_else(|| {
                entries
                    .clone()
                    .find_map(|future| self.reclaim(shared, local, future))
            })
    }

    fn take_free(&self, local: &impl Local, future: u32) -> Option<Call> {
        let old = local.or32(self.word_at(future), TAKEN);
        (old & TAKEN == 0).then_some(Call {
            future,
            generation: old >> 2,
        })
    }

    /// Takes an abandoned entry for the next generation if its answer has arrived.
    fn reclaim(&self, shared: &impl Shared, local: &impl Local, future: u32) -> Option<Call> {
        let at = self.word_at(future);
        let word = local.get32(at);
        let generation = word >> 2;
        let abandoned = Call { future, generation };
        if word & ABANDONED == 0 || !answers::has_arrived(shared, self, abandoned) {
            return None;
        }
        let next = (word & !ABANDONED).wrapping_add(4);
        local.replace32(at, word, next).then_some(Call {
            future,
            generation: next >> 2,
        })
    }

    /// Returns the answer to a call if it has arrived, and copies as much of the output as `out` has room for. Does not
    /// give the entry back.
    #[inline]
    pub(crate) fn poll(&self, shared: &impl Shared, call: Call, out: &mut [u8]) -> Option<Answer> {
        answers::poll(shared, self, call, out)
    }

    /// Gives back an entry: its answer has arrived, or its task was never submitted.
    #[inline]
    pub(crate) fn give_back(&self, local: &impl Local, call: Call) {
        // From `generation << 2 | 1` to `(generation + 1) << 2`.
        local.add32(self.word_at(call.future), 3);
    }

    /// Leaves an entry whose answer has not arrived. It stays taken until then, so that a late answer can never be read
    /// as one to a later call.
    #[inline]
    pub(crate) fn abandon(&self, local: &impl Local, call: Call) {
        local.or32(self.word_at(call.future), ABANDONED);
    }

    /// Makes memory of any contents a table without calls, before anyone uses it.
    pub(crate) fn initialize(&self, shared: &impl Shared, local: &impl Local) {
        for future in 0..self.count {
            local.set32_release(self.word_at(future), FIRST_FUTURE);
            let at = self.answers + (u64::from(future) << self.answer_log2);
            shared.store(at, 0);
            for word in 1..1 << (self.answer_log2 - 3) {
                shared.write_word(at + 8 * word, 0);
            }
        }
    }

    /// Returns the bytes of an output that an entry has room for.
    #[inline]
    pub(crate) fn output_bytes(&self) -> usize {
        (1 << self.answer_log2) - ANSWER_HEADER as usize
    }

    #[inline]
    pub(super) fn answer_at(&self, future: u32) -> Option<u64> {
        (future < self.count).then_some(self.answers + (u64::from(future) << self.answer_log2))
    }

    #[inline]
    fn word_at(&self, future: u32) -> u64 {
        self.words + 4 * u64::from(future)
    }
}

/// Returns the first word of an answer that ends the call of a future's word as closed; `None` if there is no call, or if it
/// has an answer, whose first word is `answer`.
pub(crate) fn closed_answer(word: u32, answer: u64) -> Option<u64> {
    let generation = word >> 2;
    let has_answer = (answer >> 32) as u32 == generation && answer as u8 != 0;
    (word & TAKEN != 0 && !has_answer)
        .then_some(u64::from(generation) << 32 | u64::from(status::CLOSED))
}

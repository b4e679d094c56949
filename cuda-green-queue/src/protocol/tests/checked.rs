//! Memory whose every access is a step of a checker: loom's atomics under `cfg(loom)`, which tries all interleavings
//! and old values, and those of shuttle otherwise, which tries random interleavings of many threads.

use std::collections::HashMap;

#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    thread,
};
#[cfg(not(loom))]
pub(super) use shuttle::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    thread,
};

use super::layouts::{queue, small};
use crate::protocol::{FutureTable, Local, Ring, Shared};

/// A word that only one side accesses at a time. loom finds two accesses that nothing orders; shuttle, which knows no
/// such thing, a wrong value.
struct Plain(#[cfg(loom)] UnsafeCell<u64>, #[cfg(not(loom))] AtomicU64);

// SAFETY: loom stops at the first two accesses that nothing orders.
#[cfg(loom)]
unsafe impl Sync for Plain {}

impl Plain {
    #[cfg(loom)]
    fn load(&self) -> u64 {
        // SAFETY: loom stops at the first two accesses that nothing orders.
        self.0.with(|word| unsafe { *word })
    }

    #[cfg(loom)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        self.0.with_mut(|word| unsafe { *word = value });
    }

    #[cfg(not(loom))]
    fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }

    #[cfg(not(loom))]
    fn store(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

/// The memory of a queue with one ring.
pub(super) struct Checked {
    words: HashMap<u64, AtomicU64>,
    half_words: HashMap<u64, AtomicU32>,
    plain: HashMap<u64, Plain>,
    pub(super) ring: Ring,
    pub(super) table: FutureTable,
}

impl Checked {
    pub(super) fn new(depth: u32, futures: u32, start: u64) -> Self {
        let layout = small(depth, futures);
        let queue = queue(&layout);
        let (ring, table) = (queue.ring(0, 0).unwrap(), queue.future_table());
        let slots = (0..u64::from(depth)).map(|ticket| ring.slot(ticket));
        let answers = (0..futures).map(|future| table.answer_at(future).unwrap());
        // Credits, head, seen tail and the count of refusals, a line each.
        let state = (0..4).map(|line| ring.state + 128 * line);
        let words = slots
            .clone()
            .chain(answers.clone())
            .chain(state)
            .chain([ring.tail]);
        let refilling = ring.state + 2 * 128 + 8;
        let half_words = (0..futures)
            .map(|future| table.words + 4 * u64::from(future))
            .chain([refilling]);
        let plain = slots
            .chain(answers)
            .flat_map(|at| [at + 8, at + 16, at + 24]);
        let plain = plain.map(|at| {
            #[cfg(loom)]
            let word = Plain(UnsafeCell::new(0));
            #[cfg(not(loom))]
            let word = Plain(AtomicU64::new(0));
            (at, word)
        });
        let memory = Self {
            words: words.map(|at| (at, AtomicU64::new(0))).collect(),
            half_words: half_words.map(|at| (at, AtomicU32::new(0))).collect(),
            plain: plain.collect(),
            ring,
            table,
        };
        ring.initialize(&memory, &memory, start);
        table.initialize(&memory, &memory);
        memory
    }
}

impl Shared for Checked {
    fn load(&self, at: u64) -> u64 {
        self.words[&at].load(Relaxed)
    }

    fn load_acquire(&self, at: u64) -> u64 {
        self.words[&at].load(Acquire)
    }

    fn store(&self, at: u64, value: u64) {
        self.words[&at].store(value, Relaxed);
    }

    fn store_release(&self, at: u64, value: u64) {
        self.words[&at].store(value, Release);
    }

    fn read_word(&self, at: u64) -> u64 {
        self.plain[&at].load()
    }

    fn write_word(&self, at: u64, value: u64) {
        self.plain[&at].store(value);
    }
}

impl Local for Checked {
    fn get(&self, at: u64) -> u64 {
        self.words[&at].load(Relaxed)
    }

    fn set(&self, at: u64, value: u64) {
        self.words[&at].store(value, Relaxed);
    }

    fn add(&self, at: u64, value: u64) -> u64 {
        self.words[&at].fetch_add(value, AcqRel)
    }

    fn get32(&self, at: u64) -> u32 {
        self.half_words[&at].load(Relaxed)
    }

    fn set32_release(&self, at: u64, value: u32) {
        // loom would order a store after another thread's exchange that read an earlier value, which no memory does:
        // an exchange directly follows the store that it read.
        self.half_words[&at].swap(value, Release);
    }

    fn exchange32(&self, at: u64, value: u32) -> u32 {
        self.half_words[&at].swap(value, AcqRel)
    }

    fn add32(&self, at: u64, value: u32) -> u32 {
        self.half_words[&at].fetch_add(value, AcqRel)
    }

    fn or32(&self, at: u64, bits: u32) -> u32 {
        self.half_words[&at].fetch_or(bits, AcqRel)
    }

    fn replace32(&self, at: u64, expected: u32, value: u32) -> bool {
        self.half_words[&at]
            .compare_exchange(expected, value, AcqRel, Relaxed)
            .is_ok()
    }
}

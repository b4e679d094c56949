//! The model of a GPU: the SM that a block goes to, its duration, and the next event.
//!
//! A kernel's blocks go to the SM with the most room, highest priority and oldest kernel first. A kernel with blocks
//! left to place keeps later ones off its SMs, even from room that only they could use. Blocks stay where they are
//! until they end; nothing is preempted. The blocks of an SM share it evenly once they need more than it has.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
};

use super::{Timeline, Work};

/// Blocks that fill a kernel's SMs more often than this are combined, to bound the work of the model.
const MAX_WAVES: u64 = 256;

/// Work that ends less than this many nanoseconds late counts as ended.
const EPSILON: f64 = 1e-3;

/// The capacity of one SM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmLimits {
    pub(crate) threads: u32,
    pub(crate) blocks: u32,
    pub(crate) shared: u32,
}

/// Blocks of one kernel that started together on one SM.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) op: u64,
    pub(super) blocks: u32,
    pub(super) threads: u32,
    pub(super) shared: u32,
    pub(super) load: f64,
    /// Nanoseconds that each would still take alone.
    pub(super) left: f64,
}

#[derive(Debug)]
pub(super) struct Sm {
    pub(super) free: SmLimits,
    pub(super) batches: Vec<Batch>,
    /// The time at which `left` was computed.
    pub(super) updated: u64,
    /// The valid event in the queue; older ones are stale.
    pub(super) version: u64,
}

#[derive(Debug)]
pub(super) struct Gpu {
    pub(super) sms: Vec<Sm>,
    /// Kernels with blocks left to place, by priority and age.
    pub(super) waiting: BTreeSet<(i32, u64)>,
}

impl Gpu {
    pub(super) fn new(sms: u32, limits: SmLimits) -> Self {
        let sm = || Sm {
            free: limits,
            batches: Vec::new(),
            updated: 0,
            version: 0,
        };
        Self {
            sms: (0..sms).map(|_| sm()).collect(),
            waiting: BTreeSet::new(),
        }
    }
}

impl Timeline {
    /// Combines blocks if there are too many to follow one by one.
    pub(super) fn in_waves(&self, device: usize, mut work: Work) -> Work {
        let sms = &self.gpus[device].sms;
        let at_once: u64 = work
            .sms
            .iter()
            .filter_map(|id| sms.get(*id as usize))
            .map(|sm| u64::from(room(&sm.capacity(), &work)))
            .sum();
        let waves = work.blocks / at_once.max(1);
        if waves > MAX_WAVES {
            let together = waves.div_ceil(MAX_WAVES);
            work.blocks = work.blocks.div_ceil(together);
            work.block_ns *= together as f64;
        }
        // About eleven days, so that nothing overflows.
        work.block_ns = work.block_ns.min(1e15);
        work
    }

    pub(super) fn next_event(&self) -> Option<u64> {
        self.events.peek().map(|Reverse((time, ..))| *time)
    }

    /// Processes everything that happens at the time of the next event. Returns `false` if there is none.
    pub(super) fn step(&mut self) -> bool {
        let Some(time) = self.next_event() else {
            return false;
        };
        self.clock = self.clock.max(time);
        let mut ended = Vec::new();
        let mut touched = BTreeSet::new();
        while self.next_event() == Some(time) {
            let Some(Reverse((_, device, sm, version))) = self.events.pop() else {
                break;
            };
            let place = &mut self.gpus[device].sms[sm];
            if place.version == version {
                place.advance(time);
                place.end(&mut ended);
                self.reschedule(device, sm);
                touched.insert(device);
            }
        }
        for (id, blocks) in ended {
            let Some(op) = self.ops.get_mut(&id) else {
                continue;
            };
            op.running -= u64::from(blocks);
            if op.running == 0 && op.work.as_ref().is_none_or(|work| work.blocks == 0) {
                self.complete(id, time, &mut touched);
            }
        }
        for device in touched {
            self.dispatch(device, time);
        }
        true
    }

    /// Places waiting blocks on SMs that have room.
    pub(super) fn dispatch(&mut self, device: usize, time: u64) {
        let Gpu { sms, waiting } = &mut self.gpus[device];
        let mut taken = vec![false; sms.len()];
        let mut changed = BTreeSet::new();
        let mut placed_all = Vec::new();
        for key in waiting.iter() {
            let Some(op) = self.ops.get_mut(&key.1) else {
                continue;
            };
            let Some(work) = &mut op.work else {
                continue;
            };
            let mut places: BinaryHeap<_> = work
                .sms
                .iter()
                .map(|id| *id as usize)
                .filter(|id| !taken.get(*id).copied().unwrap_or(true))
                .filter(|id| room(&sms[*id].free, work) > 0)
                .map(|id| (sms[id].free.threads, Reverse(id)))
                .collect();
            let mut new: HashMap<usize, u32> = HashMap::new();
            while work.blocks > 0
                && let Some((_, Reverse(id))) = places.pop()
            {
                let free = &mut sms[id].free;
                free.threads -= work.threads;
                free.blocks -= 1;
                free.shared -= work.shared;
                work.blocks -= 1;
                op.running += 1;
                *new.entry(id).or_default() += 1;
                if room(free, work) > 0 {
                    places.push((free.threads, Reverse(id)));
                }
            }
            for (id, blocks) in new {
                sms[id].advance(time);
                sms[id].batches.push(Batch {
                    op: key.1,
                    blocks,
                    threads: work.threads,
                    shared: work.shared,
                    load: work.load,
                    left: work.block_ns,
                });
                changed.insert(id);
            }
            if work.blocks == 0 {
                placed_all.push(*key);
            } else {
                for id in &work.sms {
                    if let Some(taken) = taken.get_mut(*id as usize) {
                        *taken = true;
                    }
                }
            }
        }
        for key in placed_all {
            waiting.remove(&key);
        }
        for sm in changed {
            self.reschedule(device, sm);
        }
    }

    /// Puts an SM's next end into the queue of events.
    fn reschedule(&mut self, device: usize, index: usize) {
        let sm = &mut self.gpus[device].sms[index];
        sm.version += 1;
        let rate = sm.rate();
        let next = sm
            .batches
            .iter()
            .map(|batch| batch.left / if batch.load > 0.0 { rate } else { 1.0 })
            .min_by(f64::total_cmp);
        if let Some(next) = next {
            let time = sm.updated.saturating_add(next.max(0.0).ceil() as u64);
            self.events.push(Reverse((time, device, index, sm.version)));
        }
    }
}

impl Sm {
    /// Returns the capacity of the SM when it is empty.
    fn capacity(&self) -> SmLimits {
        let mut all = self.free;
        for batch in &self.batches {
            all.threads += batch.threads * batch.blocks;
            all.blocks += batch.blocks;
            all.shared += batch.shared * batch.blocks;
        }
        all
    }

    /// Returns the speed of its blocks, relative to one that is alone.
    fn rate(&self) -> f64 {
        let load: f64 = self
            .batches
            .iter()
            .map(|batch| batch.load * f64::from(batch.blocks))
            .sum();
        1.0 / load.max(1.0)
    }

    /// Lets its blocks run until `time`.
    fn advance(&mut self, time: u64) {
        let passed = time.saturating_sub(self.updated) as f64;
        self.updated = time;
        let rate = self.rate();
        for batch in &mut self.batches {
            batch.left -= passed * if batch.load > 0.0 { rate } else { 1.0 };
        }
    }

    /// Removes the blocks that have ended, and returns kernel and number.
    fn end(&mut self, ended: &mut Vec<(u64, u32)>) {
        let free = &mut self.free;
        self.batches.retain(|batch| {
            let goes_on = batch.left > EPSILON;
            if !goes_on {
                free.threads += batch.threads * batch.blocks;
                free.blocks += batch.blocks;
                free.shared += batch.shared * batch.blocks;
                ended.push((batch.op, batch.blocks));
            }
            goes_on
        });
    }
}

/// Returns the number of further blocks that fit.
fn room(free: &SmLimits, work: &Work) -> u32 {
    let by_shared = free.shared.checked_div(work.shared).unwrap_or(u32::MAX);
    free.blocks
        .min(free.threads / work.threads.max(1))
        .min(by_shared)
}

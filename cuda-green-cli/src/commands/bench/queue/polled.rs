//! The CPU's side of the hand-written rings: threads that poll slots, and answer.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::shared::LINE;

/// Slots of a ring, and words of a slot.
pub const DEPTH: usize = 1_024;
pub const SLOT: usize = 16;
/// Tasks after which a consumer tells how far it is.
const TOLD_EVERY: u64 = 32;
/// Tasks that a thread takes from one ring before it looks at the next.
const BURST: u64 = 64;
/// The longest time in which nothing comes.
const STUCK: Duration = Duration::from_secs(20);

/// Rings that kernels fill, as words of pinned memory.
pub struct Polled<'a> {
    pub slots: &'a [AtomicU64],
    /// A line for each ring.
    pub tails: &'a [AtomicU64],
    /// A line for each warp; empty if no answers are wanted.
    pub answers: &'a [AtomicU64],
    /// The tasks that each ring will get.
    pub wanted: Vec<u64>,
}

/// What was taken: how many tasks, and the sum of their payloads, which wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub tasks: u64,
    pub sum: u64,
}

/// A ring, as its consumer sees it.
struct Ring<'a> {
    slots: &'a [AtomicU64],
    tail: &'a AtomicU64,
    wanted: u64,
    next: u64,
    told: u64,
}

impl Polled<'_> {
    /// Takes all tasks of the rings `thread`, `thread + threads` and so on. Returns at `stop` too.
    pub fn take(&self, thread: usize, threads: usize, stop: &AtomicBool) -> anyhow::Result<Taken> {
        let mut rings: Vec<_> = (self.wanted.iter().zip(self.slots.chunks(DEPTH * SLOT)))
            .zip(self.tails.chunks(LINE))
            .filter_map(|((wanted, slots), tail)| {
                Some(Ring {
                    slots,
                    tail: tail.first()?,
                    wanted: *wanted,
                    next: 0,
                    told: 0,
                })
            })
            .skip(thread)
            .step_by(threads.max(1))
            .collect();
        let mut taken = Taken::default();
        let (mut last, mut idle) = (Instant::now(), 0_u32);
        while rings.iter().any(|ring| ring.next < ring.wanted) {
            let before = taken.tasks;
            for ring in &mut rings {
                ring.take(self.answers, &mut taken);
            }
            if taken.tasks > before {
                (last, idle) = (Instant::now(), 0);
                continue;
            }
            std::hint::spin_loop();
            idle += 1;
            // The clock is not read in every round.
            if idle % 1024 == 0 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                ensure!(last.elapsed() < STUCK, "no task came for {STUCK:?}");
                thread::yield_now();
            }
        }
        Ok(taken)
    }
}

impl Ring<'_> {
    /// Takes what is there, but not too much of it.
    fn take(&mut self, answers: &[AtomicU64], taken: &mut Taken) {
        for _ in 0..BURST {
            if self.next == self.wanted {
                break;
            }
            let start = self.next as usize % DEPTH * SLOT;
            let Some([sequence, payload, ..]) = self.slots.get(start..start + SLOT) else {
                break;
            };
            if sequence.load(Ordering::Acquire) != self.next + 1 {
                break;
            }
            let payload = payload.load(Ordering::Relaxed);
            taken.tasks += 1;
            taken.sum = taken.sum.wrapping_add(payload);
            self.next += 1;
            if self.next.is_multiple_of(TOLD_EVERY) {
                self.tell();
            }
            // The upper half of the payload is the warp, the lower the number of its task.
            let warp = (payload >> 32) as usize;
            if let Some(answer) = answers.get(warp * LINE) {
                answer.store((payload & u64::from(u32::MAX)) + 1, Ordering::Release);
            }
        }
        if self.told != self.next {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.tail.store(self.next, Ordering::Release);
        self.told = self.next;
    }
}

/// Returns the sum of the payloads of so many warps' tasks.
pub fn expected(warps: u64, each: u64) -> Taken {
    let payloads = (0..warps).map(|warp| {
        let tasks = (u128::from(each) * u128::from(each.saturating_sub(1)) / 2) as u64;
        (warp << 32).wrapping_mul(each).wrapping_add(tasks)
    });
    Taken {
        tasks: warps * each,
        sum: payloads.fold(0, u64::wrapping_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A producer on a thread: what the kernel does, without contention.
    #[test]
    fn what_was_put_into_rings_is_taken_once_and_answered() {
        let (lanes, warps, each) = (2_usize, 3_u64, 2_000_u64);
        let words = |count: usize| -> Vec<_> { (0..count).map(|_| AtomicU64::new(0)).collect() };
        let slots = words(lanes * DEPTH * SLOT);
        let (tails, answers) = (words(lanes * LINE), words(warps as usize * LINE));
        let polled = Polled {
            slots: &slots,
            tails: &tails,
            answers: &answers,
            wanted: vec![2 * each, each],
        };
        let stop = AtomicBool::new(false);
        let taken = thread::scope(|scope| {
            let one = scope.spawn(|| polled.take(0, 2, &stop).unwrap());
            let other = scope.spawn(|| polled.take(1, 2, &stop).unwrap());
            let mut heads = [0_u64; 2];
            for number in 0..each {
                for warp in 0..warps {
                    let lane = warp as usize % lanes;
                    let ticket = heads[lane];
                    heads[lane] += 1;
                    while ticket - tails[lane * LINE].load(Ordering::Acquire) >= DEPTH as u64 {
                        thread::yield_now();
                    }
                    let slot = (lane * DEPTH + ticket as usize % DEPTH) * SLOT;
                    slots[slot + 1].store(warp << 32 | number, Ordering::Relaxed);
                    slots[slot].store(ticket + 1, Ordering::Release);
                }
            }
            let (one, other) = (one.join().unwrap(), other.join().unwrap());
            Taken {
                tasks: one.tasks + other.tasks,
                sum: one.sum.wrapping_add(other.sum),
            }
        });
        assert_eq!(taken, expected(warps, each));
        for warp in 0..warps as usize {
            assert_eq!(answers[warp * LINE].load(Ordering::Relaxed), each);
        }
    }

    #[test]
    fn one_that_is_stopped_returns() {
        let slots = [const { AtomicU64::new(0) }; SLOT];
        let tails = [const { AtomicU64::new(0) }; LINE];
        let polled = Polled {
            slots: &slots,
            tails: &tails,
            answers: &[],
            wanted: vec![1],
        };
        let taken = polled.take(0, 1, &AtomicBool::new(true)).unwrap();
        assert_eq!(taken, Taken::default());
    }
}

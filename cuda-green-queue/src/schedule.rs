//! The order in which priorities get their turn: weighted, so that the least urgent one is never starved.
//!
//! A *round* gives priority 0 up to 64 tasks, priority 1 up to 32, and so on, each at least one. Priorities without a
//! task are passed over. So a task with `n` tasks of its own priority before it waits for at most
//! `n / burst + 1` rounds, however many urgent ones arrive, and a round has at most the sum of the bursts of the others.

/// The most tasks of one priority in a round.
const LARGEST_BURST: u32 = 64;

/// Returns how many tasks of a priority, or of one ring of it, get their turn in a round.
pub(crate) fn burst(priority: u32) -> u32 {
    (LARGEST_BURST >> priority.min(31)).max(1)
}

/// The turns of a thread that takes one task at a time.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    priorities: u32,
    /// The priority whose turn it is.
    current: u32,
    /// How many tasks of it are left in this round.
    left: u32,
}

impl Schedule {
    pub(crate) fn new(priorities: u32) -> Self {
        Self {
            priorities: priorities.max(1),
            current: 0,
            left: burst(0),
        }
    }

    /// Returns the next task, where `take` returns one of a priority. `None` if there was none of any priority.
    #[inline]
    pub(crate) fn next<T>(&mut self, mut take: impl FnMut(u32) -> Option<T>) -> Option<T> {
        // One more than there are priorities: the current one may have no turn left, and is asked again at the end.
        for _ in 0..=self.priorities {
            if self.left > 0
                && let Some(task) = take(self.current)
            {
                self.left -= 1;
                return Some(task);
            }
            self.current = (self.current + 1) % self.priorities;
            self.left = burst(self.current);
        }
        // Begin with the most urgent when there is something again.
        self.current = 0;
        self.left = burst(0);
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_starved_and_nothing_is_overlooked(
            priorities in 1u32..=16,
            arrivals in prop::collection::vec((0u32..16, 0u32..200), 0..400),
        ) {
            let mut schedule = Schedule::new(priorities);
            let mut waiting = vec![0u64; priorities as usize];
            // For each priority: tasks of others since it was last served or last empty.
            let mut passed_over = vec![0u64; priorities as usize];
            let bound: Vec<u64> = (0..priorities)
                .map(|one| (0..priorities).filter(|other| *other != one).map(|other| u64::from(burst(other))).sum())
                .collect();
            for (priority, count) in arrivals {
                waiting[(priority % priorities) as usize] += u64::from(count % 7);
                for _ in 0..count {
                    let taken = schedule.next(|priority| {
                        let left = &mut waiting[priority as usize];
                        (*left > 0).then(|| { *left -= 1; priority })
                    });
                    let Some(taken) = taken else {
                        prop_assert!(waiting.iter().all(|left| *left == 0), "overlooked: {waiting:?}");
                        break;
                    };
                    for one in 0..priorities as usize {
                        if one == taken as usize || waiting[one] == 0 {
                            passed_over[one] = 0;
                        } else {
                            passed_over[one] += 1;
                            prop_assert!(passed_over[one] <= bound[one], "{one}: {passed_over:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn urgent_tasks_get_their_share_of_a_full_queue() {
        let mut schedule = Schedule::new(3);
        let mut counts = [0; 3];
        for _ in 0..(64 + 32 + 16) * 10 {
            if let Some(priority) = schedule.next(Some) {
                counts[priority as usize] += 1;
            }
        }
        assert_eq!(counts, [640, 320, 160]);
    }
}

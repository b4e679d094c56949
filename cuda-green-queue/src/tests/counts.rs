//! Counts of submissions and ends: every task that was submitted is done, failed, or discarded, and a refusal is neither.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;

use super::*;
use crate::{SubmissionStats, SubmitError, Submitter};

/// Submits so many of each way without waiting for them, and fails or panics if it is to.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Parent {
    children: u32,
    end: u32,
}

impl Task for Parent {
    const METHOD: u16 = 8;
    type Output = u64;
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Submit {
        copied: bool,
        tries: bool,
        children: u32,
        end: u32,
    },
    /// Waits for the last one.
    Wait,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (any::<bool>(), any::<bool>(), 0..4_u32, 0..3_u32)
            .prop_map(|(copied, tries, children, end)| Act::Submit { copied, tries, children, end }),
        1 => Just(Act::Wait),
    ]
}

/// Submissions of the two ways, as those who made them count.
#[derive(Default)]
struct Seen {
    moved: [AtomicU64; 2],
    copied: [AtomicU64; 2],
}

impl Seen {
    /// Counts a submission, or a refusal; a closed queue is neither.
    fn note<F, T>(&self, copied: bool, result: Result<F, SubmitError<T>>) -> Option<F> {
        let [submitted, refused] = if copied { &self.copied } else { &self.moved };
        match result {
            Ok(future) => {
                submitted.fetch_add(1, Ordering::SeqCst);
                Some(future)
            }
            Err(SubmitError::Full(_)) => {
                refused.fetch_add(1, Ordering::SeqCst);
                None
            }
            Err(_) => None,
        }
    }

    fn of(counts: &[AtomicU64; 2]) -> SubmissionStats {
        let [submitted, refused] = counts.each_ref().map(|count| count.load(Ordering::SeqCst));
        SubmissionStats { submitted, refused }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_submission_ends_and_no_refusal_does(
        acts in prop::collection::vec(act(), 0..80),
        workers in 1..4_u32,
        discards: bool,
    ) {
        let seen = Arc::new(Seen::default());
        let noted = seen.clone();
        let queues = TaskQueueBuilder::default()
            .handler(move |Parent { children, end }| {
                let submitter = Submitter::current().ok_or(TaskFailure(9))?;
                let child = Parent { children: 0, end };
                for _ in 0..children {
                    let future = noted.note(false, submitter.submit(child));
                    // One is run here, and found again where it was put.
                    let _ = future.map(|future| future.wait());
                    let _ = noted.note(true, submitter.submit_copy(child)).map(|future| future.wait());
                    let _ = noted.note(true, submitter.try_submit_copy(child));
                    let _ = noted.note(false, submitter.try_submit(child));
                }
                match end {
                    0 => Ok(0),
                    1 => Err(TaskFailure(1)),
                    _ => std::panic::resume_unwind(Box::new("on purpose")),
                }
            })
            .cpu_depth(8)
            .workers(workers as usize)
            .build_for(&[])
            .unwrap();
        let mut last = None;
        for act in acts {
            match act {
                Act::Wait => drop(last.take().map(crate::TaskFuture::wait)),
                Act::Submit { copied, tries, children, end } => {
                    let task = Parent { children, end };
                    let submitted = match (copied, tries) {
                        (false, false) => queues.submit(task),
                        (false, true) => queues.try_submit(task),
                        (true, false) => queues.submit_copy(task),
                        (true, true) => queues.try_submit_copy(task),
                    };
                    last = seen.note(copied, submitted).or(last);
                }
            }
        }
        let submitter = queues.submitter().clone();
        if discards {
            drop(queues);
        } else {
            queues.shutdown().unwrap();
        }
        let stats = submitter.stats();
        prop_assert_eq!(stats.pointers, Seen::of(&seen.moved));
        prop_assert_eq!(stats.copies, Seen::of(&seen.copied));
        let submitted = stats.pointers.submitted + stats.copies.submitted;
        prop_assert_eq!(stats.handled() + stats.discarded, submitted, "{}", stats);
        prop_assert!(discards || stats.discarded == 0);
    }
}

/// Whoever has an answer finds its task in the figures.
#[test]
fn tasks_are_counted_before_their_answers() {
    let queues = builder().build_for(&[]).unwrap();
    for n in 0..1_000 {
        let future = match n % 2 {
            0 => queues.submit(Double(n)).unwrap(),
            _ => queues.submit_copy(Double(n)).unwrap(),
        };
        assert_eq!(future.wait(), Ok(2 * n));
        assert_eq!(queues.stats().handled(), n + 1);
    }
    queues.shutdown().unwrap();
}

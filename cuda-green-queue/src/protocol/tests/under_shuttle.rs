//! Random interleavings of many threads.

use super::{
    layouts::before_the_wrap,
    scenarios::{Work, call, deliver, deliver_words, reclaim},
};

const SCHEDULES: usize = 400;

fn check(run: impl Fn() + Send + Sync + 'static) {
    let run = std::sync::Arc::new(run);
    let again = run.clone();
    shuttle::check_random(move || run(), SCHEDULES);
    // Few preemptions at random places find what many hide.
    shuttle::check_pct(move || again(), SCHEDULES, 4);
}

#[test]
fn many_producers() {
    const WORK: Work = Work {
        warps: &[1, 2, 1, 3, 1, 1],
        attempts: 4,
    };
    check(|| deliver(4, before_the_wrap(4), 2, &[WORK; 8], 60, None));
}

#[test]
fn many_producers_and_a_deep_ring() {
    const WORK: Work = Work {
        warps: &[4, 1, 8],
        attempts: 3,
    };
    check(|| deliver(32, 0, 0, &[WORK; 12], 200, None));
}

#[test]
fn closed_while_many_submit() {
    const WORK: Work = Work {
        warps: &[1, 1, 2, 1],
        attempts: 3,
    };
    check(|| deliver(4, 0, 0, &[WORK; 8], 60, Some(5)));
}

#[test]
fn many_calls() {
    check(|| call(8, 4, 6, 4, 3, 40));
}

#[test]
fn an_abandoned_entry_that_many_want() {
    check(|| reclaim(6));
}

#[test]
fn words_that_tell_their_sequence() {
    check(|| deliver_words(4, before_the_wrap(4), 30, 60));
}

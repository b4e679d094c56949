//! Every interleaving of a few threads, and every old value that the orderings allow.

use super::{
    layouts::before_the_wrap,
    scenarios::{Work, call, deliver, deliver_words, reclaim},
};

const ONE: Work = Work {
    warps: &[1],
    attempts: 1,
};
const ONE_TWICE: Work = Work {
    warps: &[1],
    attempts: 2,
};
const TWO: Work = Work {
    warps: &[1, 1],
    attempts: 1,
};
const WARP: Work = Work {
    warps: &[2],
    attempts: 1,
};

/// Runs a test under every interleaving of its threads with at most this many preemptions.
fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(run);
}

#[test]
fn two_producers_and_an_empty_ring() {
    model(3, || deliver(2, 0, 0, &[ONE, ONE], 1, None));
}

#[test]
fn two_producers_and_the_last_slot() {
    model(4, || {
        deliver(2, before_the_wrap(2), 1, &[ONE, ONE_TWICE], 1, None);
    });
}

#[test]
fn two_producers_and_a_full_ring_at_the_wrap() {
    model(3, || {
        deliver(2, before_the_wrap(2) + 2, 2, &[ONE_TWICE, ONE], 2, None);
    });
}

#[test]
fn one_producer_goes_round() {
    model(3, || deliver(2, before_the_wrap(2), 1, &[TWO], 2, None));
}

#[test]
fn three_producers() {
    model(2, || deliver(2, 0, 1, &[ONE, ONE, ONE], 1, None));
}

#[test]
fn a_warp_and_a_thread() {
    model(3, || deliver(2, 0, 1, &[WARP, ONE], 1, None));
}

#[test]
fn closed_meanwhile() {
    model(3, || deliver(2, 0, 1, &[ONE, ONE], 2, Some(1)));
}

#[test]
fn closed_at_once() {
    model(3, || deliver(2, 0, 2, &[ONE_TWICE, ONE], 2, Some(0)));
}

#[test]
fn calls_of_two_threads_for_one_entry() {
    model(3, || call(4, 1, 2, 1, 1, 1));
}

#[test]
fn calls_of_one_thread_after_each_other() {
    model(3, || call(4, 1, 1, 2, 1, 2));
}

#[test]
fn an_abandoned_entry_that_many_want() {
    model(3, || reclaim(2));
}

#[test]
fn words_that_tell_their_sequence() {
    model(3, || deliver_words(2, 0, 1, 2));
}

#[test]
fn words_of_an_earlier_lap() {
    model(2, || deliver_words(1, before_the_wrap(1), 2, 2));
}

//! One thread: each rule by itself, and all against a sequential model.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::layouts::{InMemory, before_the_wrap};
use crate::{
    layout::{NO_FUTURE, status},
    protocol::{Call, Consumer, Local, Mapped, Reservation, Shared, TaskHeader, answer},
};

const LENGTH: u16 = 12;

fn payload(tag: u64) -> [u8; LENGTH as usize] {
    let mut bytes = [tag as u8 ^ 0x5A; LENGTH as usize];
    bytes[..8].copy_from_slice(&tag.to_le_bytes());
    bytes
}

fn commit(queue: &InMemory, ticket: u64, tag: u64) {
    let header = TaskHeader::without_answer(tag as u16, LENGTH);
    queue
        .ring
        .commit(&queue.shared, ticket, &header, &payload(tag));
}

/// Takes the next task and checks that it is whole.
fn consume(queue: &InMemory, consumer: &mut Consumer) -> Option<u64> {
    let header = consumer.peek(&queue.shared)?;
    let mut bytes = [0; LENGTH as usize];
    consumer.copy(&queue.shared, &mut bytes);
    consumer.advance(&queue.shared);
    let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header, TaskHeader::without_answer(tag as u16, LENGTH));
    assert_eq!(header.future, NO_FUTURE);
    assert_eq!(bytes, payload(tag));
    Some(tag)
}

#[derive(Clone, Debug)]
enum Step {
    /// Reserves some slots.
    Reserve(u32),
    /// The same, of one that was refused before.
    ReserveAgain(u32),
    /// Commits one of the reserved tickets.
    Commit(prop::sample::Index),
    Consume,
    Tell,
    Replenish(u32),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..=9_u32).prop_map(Step::Reserve),
        4 => (1..=9_u32).prop_map(Step::ReserveAgain),
        16 => any::<prop::sample::Index>().prop_map(Step::Commit),
        12 => Just(Step::Consume),
        6 => Just(Step::Tell),
        2 => (0..=9_u32).prop_map(Step::Replenish),
        1 => Just(Step::Close),
    ]
}

proptest! {
    // A broken line is no case to try again.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Tickets are given in order and exactly while there are slots; tasks arrive in the order of tickets, each once and
    /// whole; the sequence may wrap meanwhile.
    #[test]
    fn a_ring_is_a_bounded_queue(
        depth_log2 in 1..5_u32,
        laps_before_the_wrap in 0..3_u64,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let depth = 1 << depth_log2;
        let start = before_the_wrap(depth) - (laps_before_the_wrap << depth_log2);
        let queue = InMemory::new(depth, 1, start);
        let (shared, local) = (&queue.shared, &queue.local);
        let mut consumer = Consumer::new(queue.ring, shared);
        let (mut head, mut tail, mut told, mut closed) = (start, start, start, false);
        let mut reserved = Vec::new();
        // By ticket from `tail` on: whether it was committed.
        let mut slots = VecDeque::new();
        for step in steps {
            match step {
                Step::Reserve(count) | Step::ReserveAgain(count) => {
                    let got = match step {
                        Step::Reserve(_) => queue.ring.reserve(shared, local, count),
                        _ => queue.ring.reserve_again(shared, local, count),
                    };
                    let free = u64::from(depth) - (head - told);
                    if free >= u64::from(count) {
                        prop_assert_eq!(got, Reservation::Tickets(head));
                        for ticket in head..head + u64::from(count) {
                            reserved.push(ticket);
                            slots.push_back(false);
                        }
                        head += u64::from(count);
                    } else if closed {
                        prop_assert_eq!(got, Reservation::Closed);
                    } else {
                        prop_assert_eq!(got, Reservation::Full);
                    }
                }
                Step::Commit(index) => {
                    if !reserved.is_empty() {
                        let ticket = reserved.swap_remove(index.index(reserved.len()));
                        commit(&queue, ticket, ticket);
                        slots[(ticket - tail) as usize] = true;
                    }
                }
                Step::Consume => {
                    let expected = (slots.front() == Some(&true)).then_some(tail);
                    prop_assert_eq!(consume(&queue, &mut consumer), expected);
                    if expected.is_some() {
                        slots.pop_front();
                        tail += 1;
                    }
                    if !closed && tail - told >= u64::from(depth / 8).max(1) {
                        told = tail;
                    }
                }
                Step::Tell => {
                    consumer.tell(shared);
                    if !closed {
                        told = tail;
                    }
                }
                Step::Replenish(count) => queue.ring.replenish(shared, local, head, count),
                Step::Close => {
                    consumer.close(shared);
                    closed = true;
                }
            }
            prop_assert_eq!(consumer.position(), tail);
            prop_assert_eq!(consumer.is_closed(), closed);
        }
    }

    /// Outputs arrive whole, as far as the reader has room; the next entry's answer stays as it is; and the length of an
    /// answer, which a kernel may have written, is not believed.
    #[test]
    fn an_output_of_any_length(output in prop::collection::vec(any::<u8>(), 0..=24), room in 0..40_usize, lie: u32) {
        let queue = InMemory::new(2, 2, 0);
        let (shared, table) = (&queue.shared, &queue.table);
        let calls = [queue.take().unwrap(), queue.take().unwrap()];
        prop_assert!(answer(shared, table, calls[1], status::DONE, &[1; 24]));
        prop_assert!(answer(shared, table, calls[0], status::DONE, &output));
        let mut out = vec![0xEE; room];
        let got = table.poll(shared, calls[0], &mut out).unwrap();
        prop_assert_eq!(got.length as usize, output.len());
        let whole = output.len().min(room);
        prop_assert_eq!(&out[..whole], &output[..whole]);
        prop_assert!(out[whole..].iter().all(|&byte| byte == 0xEE));
        let mut other = [0; 24];
        prop_assert!(table.poll(shared, calls[1], &mut other).is_some());
        prop_assert_eq!(other, [1; 24]);

        let at = table.answer_at(calls[0].future).unwrap();
        let generation = shared.load(at) >> 32 << 32;
        shared.store(at, generation | u64::from(lie & 0xFF_FFFF) << 8 | 1);
        let got = table.poll(shared, calls[0], &mut out).unwrap();
        prop_assert_eq!(got.length, lie & 0xFF_FFFF);
        prop_assert!(out.iter().skip(24).all(|&byte| byte == 0xEE));
    }

    /// Whatever a kernel writes into a slot or asks for, the consumer stays within the slot.
    #[test]
    fn a_length_that_lies_is_harmless(length: u16, wanted in 0..200_usize) {
        let queue = InMemory::new(2, 1, 0);
        let mut consumer = Consumer::new(queue.ring, &queue.shared);
        let Reservation::Tickets(ticket) = queue.ring.reserve(&queue.shared, &queue.local, 1) else {
            panic!("the ring is empty");
        };
        let header = TaskHeader::without_answer(1, length);
        queue.ring.commit(&queue.shared, ticket, &header, &[7; 40]);
        prop_assert_eq!(consumer.peek(&queue.shared), Some(header));
        prop_assert_eq!(queue.shared.load(queue.ring.slot(1)), 0, "the next slot");
        let mut out = vec![1; wanted];
        consumer.copy(&queue.shared, &mut out);
        consumer.advance(&queue.shared);
        let room = queue.ring.payload_bytes();
        prop_assert!(out.iter().take(room).all(|&byte| byte == 7));
        prop_assert!(out.iter().skip(room).all(|&byte| byte == 0));
        prop_assert_eq!(consumer.peek(&queue.shared), None);
    }
}

#[test]
fn a_slot_of_an_earlier_lap_is_empty() {
    for start in [0, 2, before_the_wrap(2), before_the_wrap(2) + 2] {
        let queue = InMemory::new(2, 1, start);
        let mut consumer = Consumer::new(queue.ring, &queue.shared);
        for ticket in start..start + 6 {
            assert_eq!(consume(&queue, &mut consumer), None, "{ticket}");
            let got = queue.ring.reserve(&queue.shared, &queue.local, 1);
            assert_eq!(got, Reservation::Tickets(ticket));
            commit(&queue, ticket, ticket);
            assert_eq!(consume(&queue, &mut consumer), Some(ticket));
        }
    }
}

#[test]
fn a_tail_that_lies_grants_nothing() {
    let queue = InMemory::new(4, 1, 100);
    let (shared, local) = (&queue.shared, &queue.local);
    assert_eq!(
        queue.ring.reserve(shared, local, 4),
        Reservation::Tickets(100)
    );
    for tail in [99, 0, 105, u64::MAX >> 1] {
        shared.store(queue.ring.tail, tail);
        assert_eq!(queue.ring.reserve(shared, local, 1), Reservation::Full);
    }
    shared.store(queue.ring.tail, 101);
    assert_eq!(
        queue.ring.reserve(shared, local, 1),
        Reservation::Tickets(104)
    );
}

#[test]
fn refusals_are_counted() {
    let queue = InMemory::new(2, 1, 0);
    queue.ring.count_refused(&queue.local, 3);
    queue.ring.count_refused(&queue.local, 2);
    assert_eq!(queue.ring.refused(&queue.local), 5);
}

#[test]
fn many_are_reserved_with_old_and_new_credits() {
    let queue = InMemory::new(4, 1, 0);
    let (shared, local) = (&queue.shared, &queue.local);
    let mut consumer = Consumer::new(queue.ring, shared);
    assert_eq!(
        queue.ring.reserve(shared, local, 3),
        Reservation::Tickets(0)
    );
    (0..3).for_each(|ticket| commit(&queue, ticket, ticket));
    consume(&queue, &mut consumer);
    consumer.tell(shared);
    // One credit from the start and one from the refill.
    assert_eq!(
        queue.ring.reserve(shared, local, 2),
        Reservation::Tickets(3)
    );
    assert_eq!(queue.ring.reserve(shared, local, 5), Reservation::Full);
}

#[test]
fn credits_come_before_they_run_out() {
    let queue = InMemory::new(32, 1, 0);
    let (shared, local) = (&queue.shared, &queue.local);
    let mut consumer = Consumer::new(queue.ring, shared);
    for ticket in 0..1000 {
        let got = queue.ring.reserve(shared, local, 1);
        assert_eq!(got, Reservation::Tickets(ticket));
        commit(&queue, ticket, ticket);
        consume(&queue, &mut consumer);
        queue.ring.replenish(shared, local, ticket, 1);
        let credits = queue.ring.credits(local);
        assert!((24..=32).contains(&credits), "{credits} after {ticket}");
    }
}

#[test]
fn a_closed_ring_accepts_no_more_than_its_slots() {
    let queue = InMemory::new(4, 1, 0);
    let (shared, local) = (&queue.shared, &queue.local);
    let mut consumer = Consumer::new(queue.ring, shared);
    consumer.close(shared);
    consumer.close(shared);
    let mut accepted = 0;
    while let Reservation::Tickets(ticket) = queue.ring.reserve(shared, local, 1) {
        commit(&queue, ticket, ticket);
        assert_eq!(consume(&queue, &mut consumer), Some(ticket));
        consumer.tell(shared);
        accepted += 1;
        assert!(accepted <= 4);
    }
    assert_eq!(accepted, 4);
    assert_eq!(queue.ring.reserve(shared, local, 1), Reservation::Closed);
    assert_eq!(
        queue.ring.reserve_again(shared, local, 1),
        Reservation::Closed
    );
    assert!(Consumer::new(queue.ring, shared).is_closed());
}

#[test]
fn a_call_gets_the_answer_of_its_own_generation() {
    let queue = InMemory::new(2, 2, 0);
    let (shared, local, table) = (&queue.shared, &queue.local, &queue.table);
    let first = queue.take().unwrap();
    let mut out = [0xEE; 6];
    assert_eq!(table.poll(shared, first, &mut out), None);
    assert!(answer(shared, table, first, status::DONE, &[1, 2, 3, 4]));
    let got = table.poll(shared, first, &mut out[..4]).unwrap();
    assert_eq!(
        (got.status, got.length, &out[..4]),
        (status::DONE, 4, &[1, 2, 3, 4][..])
    );
    table.give_back(local, first);

    let second = queue.take().unwrap();
    assert_eq!(second.future, first.future);
    assert_eq!(second.generation, first.generation + 1);
    assert_eq!(
        table.poll(shared, second, &mut out),
        None,
        "the earlier answer"
    );
    assert!(answer(shared, table, second, status::FAILED, &[9]));
    let got = table.poll(shared, second, &mut out).unwrap();
    assert_eq!((got.status, got.length, out[0]), (status::FAILED, 1, 9));
}

#[test]
fn an_answer_of_another_generation_is_none() {
    let queue = InMemory::new(2, 1, 0);
    let (shared, table) = (&queue.shared, &queue.table);
    let call = queue.take().unwrap();
    let at = table.answer_at(call.future).unwrap();
    assert!(answer(shared, table, call, status::DONE, &[5; 4]));
    let first = shared.load(at);
    let mut out = [0; 4];
    // Of the generation before, of the one after, and of none.
    for stale in [first - (1 << 32), first + (1 << 32), first & !0xFF, 0] {
        shared.store(at, stale);
        assert_eq!(table.poll(shared, call, &mut out), None);
        assert_eq!(out, [0; 4]);
    }
    shared.store(at, first);
    assert!(table.poll(shared, call, &mut out).is_some());
    assert_eq!(out, [5; 4]);
}

#[test]
fn an_abandoned_entry_is_taken_again_after_its_answer_alone() {
    let queue = InMemory::new(2, 2, 0);
    let (shared, local, table) = (&queue.shared, &queue.local, &queue.table);
    let calls = [queue.take().unwrap(), queue.take().unwrap()];
    assert_ne!(calls[0].future, calls[1].future);
    table.abandon(local, calls[1]);
    assert_eq!(queue.take(), None, "its answer may still come");
    assert!(answer(shared, table, calls[0], status::DONE, &[]));
    assert_eq!(
        queue.take(),
        None,
        "answered, but its owner has not seen it"
    );
    assert!(answer(shared, table, calls[1], status::DONE, &[]));
    let next = Call {
        future: calls[1].future,
        generation: calls[1].generation + 1,
    };
    assert_eq!(queue.take(), Some(next));
    assert_eq!(queue.take(), None);
    table.give_back(local, next);
    assert_eq!(
        queue.take().map(|call| call.generation),
        Some(next.generation + 1)
    );
}

#[test]
fn answers_that_cannot_be_are_refused() {
    let queue = InMemory::new(2, 2, 0);
    let (shared, table) = (&queue.shared, &queue.table);
    for (future, length) in [(2, 0), (NO_FUTURE, 0), (0, 25)] {
        let call = Call {
            future,
            generation: 1,
        };
        assert!(!answer(
            shared,
            table,
            call,
            status::DONE,
            &[0; 25][..length]
        ));
    }
    let forged = Call {
        future: 2,
        generation: 1,
    };
    assert_eq!(table.poll(shared, forged, &mut []), None);
}

#[test]
fn a_generation_wraps() {
    let queue = InMemory::new(2, 1, 0);
    let (shared, local, table) = (&queue.shared, &queue.local, &queue.table);
    let call = queue.take().unwrap();
    table.give_back(local, call);
    // The word of the last generation.
    local.add32(table.words, (u32::MAX << 2).wrapping_sub(2 << 2));
    let last = queue.take().unwrap();
    assert_eq!(last.generation, u32::MAX >> 2);
    assert!(answer(shared, table, last, status::DONE, &[]));
    assert!(table.poll(shared, last, &mut []).is_some());
    table.give_back(local, last);
    let first = queue.take().unwrap();
    assert_eq!(first.generation, 0);
    assert_eq!(table.poll(shared, first, &mut []), None);
}

/// In a release build an access outside does nothing; a debug build says where it was.
#[test]
#[cfg_attr(debug_assertions, should_panic = "offset")]
fn an_access_outside_of_the_memory_does_nothing() {
    let queue = InMemory::new(2, 1, 0);
    let outside: &Mapped = &queue.shared;
    outside.store(1 << 40, 1);
    assert_eq!(outside.load(1 << 40), 0);
    assert_eq!(outside.load(3), 0);
}

/// However many entries beside each other are held, the last one is found.
#[test]
fn an_entry_is_found_wherever_one_is_free() {
    let queue = InMemory::new(2, 128, 0);
    let (shared, local, table) = (&queue.shared, &queue.local, &queue.table);
    let calls: Vec<_> = (0..128).map(|_| queue.take().unwrap()).collect();
    assert_eq!(queue.take(), None);
    for call in [calls[127], calls[64]] {
        table.give_back(local, call);
        assert_eq!(queue.take().map(|taken| taken.future), Some(call.future));
    }
    table.abandon(local, calls[100]);
    assert_eq!(queue.take(), None, "its answer may still come");
    assert!(answer(shared, table, calls[100], status::DONE, &[]));
    assert_eq!(queue.take().map(|taken| taken.future), Some(100));
}

//! Threads over real memory, which Miri checks too.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::layouts::{InMemory, before_the_wrap};
use crate::{
    layout::status,
    protocol::{Call, Consumer, Reservation, TaskHeader, answer},
};

const CALLERS: u64 = 4;
const CALLS: u64 = if cfg!(miri) { 20 } else { 20_000 };

/// Callers wait for the answer to each call, which is the square of what they sent; the sums must match.
#[test]
fn every_call_is_answered_once() {
    let queue = InMemory::new(8, 4, before_the_wrap(8) - 8);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let consumer = scope.spawn(|| serve(&queue, &done));
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let queue = &queue;
                let numbers = caller * CALLS..(caller + 1) * CALLS;
                scope.spawn(move || {
                    numbers
                        .map(|number| call(queue, number as u32))
                        .sum::<u64>()
                })
            })
            .collect();
        let sum = callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .sum::<u64>();
        done.store(true, Ordering::Release);
        assert_eq!(consumer.join().unwrap(), CALLERS * CALLS);
        let expected = (0..CALLERS * CALLS).map(square).sum::<u64>();
        assert_eq!(sum, expected);
    });
}

fn square(number: u64) -> u64 {
    (number * number) & u64::from(u32::MAX)
}

fn serve(queue: &InMemory, done: &AtomicBool) -> u64 {
    let shared = &queue.shared;
    let mut consumer = Consumer::new(queue.ring, shared);
    let mut served = 0;
    loop {
        let last = done.load(Ordering::Acquire);
        let Some(header) = consumer.peek(shared) else {
            consumer.tell(shared);
            if last {
                return served;
            }
            thread::yield_now();
            continue;
        };
        let mut payload = [0; 8];
        consumer.copy(shared, &mut payload);
        consumer.advance(shared);
        let output = square(u64::from_le_bytes(payload)) as u32;
        let call = Call {
            future: header.future,
            generation: header.generation,
        };
        assert!(answer(
            shared,
            &queue.table,
            call,
            status::DONE,
            &output.to_le_bytes()
        ));
        served += 1;
    }
}

fn call(queue: &InMemory, number: u32) -> u64 {
    let (shared, local, table) = (&queue.shared, &queue.local, &queue.table);
    let call = loop {
        match table.take(shared, local, number) {
            Some(call) => break call,
            None => thread::yield_now(),
        }
    };
    let mut got = queue.ring.reserve(shared, local, 1);
    let ticket = loop {
        match got {
            Reservation::Tickets(ticket) => break ticket,
            Reservation::Closed => panic!("nobody closed it"),
            Reservation::Full | Reservation::Refilling => thread::yield_now(),
        }
        got = queue.ring.reserve_again(shared, local, 1);
    };
    let header = TaskHeader {
        method: 1,
        length: 8,
        future: call.future,
        generation: call.generation,
    };
    queue
        .ring
        .commit(shared, ticket, &header, &u64::from(number).to_le_bytes());
    queue.ring.replenish(shared, local, ticket, 1);
    let mut output = [0; 4];
    while table.poll(shared, call, &mut output).is_none() {
        thread::yield_now();
    }
    table.give_back(local, call);
    u32::from_le_bytes(output).into()
}

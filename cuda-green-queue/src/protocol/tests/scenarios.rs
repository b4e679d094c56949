//! What threads do in the tests under loom and shuttle, and what must hold whatever the interleaving.

use std::sync::Arc;

use super::checked::{Checked, thread};
use crate::{
    layout::{NO_FUTURE, status},
    protocol::{Call, Consumer, Reservation, TaskHeader, answer},
};

const LENGTH: u16 = 16;

/// Returns a payload whose two words both tell the tag, so that half of one is seen.
fn payload(tag: u64) -> [u8; LENGTH as usize] {
    let mut bytes = [0; LENGTH as usize];
    bytes[..8].copy_from_slice(&tag.to_le_bytes());
    bytes[8..].copy_from_slice(&(!tag).to_le_bytes());
    bytes
}

fn tag(bytes: [u8; LENGTH as usize]) -> u64 {
    let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, payload(tag), "the payload is torn");
    tag
}

fn commit(queue: &Checked, ticket: u64, tag: u64, call: Option<Call>) {
    let header = TaskHeader {
        method: tag as u16,
        length: LENGTH,
        future: call.map_or(NO_FUTURE, |call| call.future),
        generation: call.map_or(0, |call| call.generation),
    };
    queue.ring.commit(queue, ticket, &header, &payload(tag));
}

/// Submits as many tasks as one warp would, of neighbouring tags, unless there is no room in so many attempts.
pub(super) fn submit(queue: &Checked, first: u64, count: u32, attempts: u32) -> Reservation {
    let mut got = queue.ring.reserve(queue, queue, count);
    for _ in 1..attempts {
        if !matches!(got, Reservation::Full | Reservation::Refilling) {
            break;
        }
        thread::yield_now();
        got = queue.ring.reserve_again(queue, queue, count);
    }
    if let Reservation::Tickets(ticket) = got {
        for i in (0..u64::from(count)).rev() {
            commit(queue, ticket + i, first + i, None);
        }
        queue.ring.replenish(queue, queue, ticket, count);
    }
    got
}

/// Takes the next task if there is one.
pub(super) fn consume(queue: &Checked, consumer: &mut Consumer) -> Option<(u64, Call)> {
    let header = consumer.peek(queue)?;
    let mut bytes = [0; LENGTH as usize];
    consumer.copy(queue, &mut bytes);
    consumer.advance(queue);
    let tag = tag(bytes);
    assert_eq!(
        (header.method, header.length),
        (tag as u16, LENGTH),
        "the header is torn"
    );
    let call = Call {
        future: header.future,
        generation: header.generation,
    };
    Some((tag, call))
}

/// A producer's work: warps of so many tasks, each tried a few times.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) warps: &'static [u32],
    pub(super) attempts: u32,
}

/// Producers submit while the consumer consumes, and closes the ring after so many tasks. Everything accepted arrives
/// once and whole, and the ring has all its slots afterwards.
pub(super) fn deliver(
    depth: u32,
    start: u64,
    prefilled: u32,
    producers: &[Work],
    looks: u32,
    close_after: Option<u32>,
) {
    let queue = Arc::new(Checked::new(depth, 1, start));
    let mut consumer = Consumer::new(queue.ring, &*queue);
    let mut accepted: Vec<u64> = (0..prefilled.into()).collect();
    for &tag in &accepted {
        let got = submit(&queue, tag, 1, 1);
        assert_eq!(got, Reservation::Tickets(start + tag));
    }
    let threads: Vec<_> = (producers.iter().zip(1..))
        .map(|(&work, number)| {
            let queue = queue.clone();
            thread::spawn(move || producer(&queue, work, number << 8))
        })
        .collect();

    let mut delivered = Vec::new();
    let mut before_close = None;
    for look in 0..looks {
        if close_after == Some(look) {
            consumer.close(&*queue);
            before_close = Some(consumer.position());
        }
        match consume(&queue, &mut consumer) {
            Some((tag, _)) => delivered.push(tag),
            None => thread::yield_now(),
        }
    }
    for thread in threads {
        accepted.extend(thread.join().unwrap());
    }
    while let Some((tag, _)) = consume(&queue, &mut consumer) {
        delivered.push(tag);
    }
    consumer.tell(&*queue);
    accepted.sort_unstable();
    let mut sorted = delivered.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, accepted, "accepted and not delivered, or twice");

    // How many more are accepted: all slots' worth, or what was left before the ring was closed.
    let mut more = 0;
    let end = loop {
        match queue.ring.reserve_again(&*queue, &*queue, 1) {
            Reservation::Tickets(_) => more += 1,
            end => break end,
        }
        assert!(more <= depth, "more credits than slots");
    };
    match before_close {
        None => assert_eq!((more, end), (depth, Reservation::Full)),
        Some(position) => {
            assert_eq!(end, Reservation::Closed);
            let total = start + accepted.len() as u64 + u64::from(more);
            assert!(total <= position + u64::from(depth));
        }
    }
}

fn producer(queue: &Checked, work: Work, mut tag: u64) -> Vec<u64> {
    let mut accepted = Vec::new();
    for &count in work.warps {
        if let Reservation::Tickets(_) = submit(queue, tag, count, work.attempts) {
            accepted.extend(tag..tag + u64::from(count));
        }
        tag += u64::from(count);
    }
    accepted
}

/// Callers take futures, submit, and poll a few times; a call that is not answered by then is abandoned. The consumer
/// answers, the answers of odd tags by another thread and later. No caller sees the answer to another call.
pub(super) fn call(depth: u32, futures: u32, callers: u64, calls: u64, polls: u32, looks: u32) {
    let queue = Arc::new(Checked::new(depth, futures, 0));
    let threads: Vec<_> = (0..callers)
        .map(|caller| {
            let queue = queue.clone();
            thread::spawn(move || caller_of(&queue, caller << 8, calls, polls))
        })
        .collect();
    let mut consumer = Consumer::new(queue.ring, &*queue);
    let mut late = Vec::new();
    for _ in 0..looks {
        match consume(&queue, &mut consumer) {
            Some((tag, call)) if tag % 2 == 1 => late.push((tag, call)),
            Some((tag, call)) => reply(&queue, tag, call),
            None => thread::yield_now(),
        }
    }
    let slow = {
        let queue = queue.clone();
        thread::spawn(move || {
            late.iter()
                .for_each(|&(tag, call)| reply(&queue, tag, call))
        })
    };
    for thread in threads {
        thread.join().unwrap();
    }
    slow.join().unwrap();
    while let Some((tag, call)) = consume(&queue, &mut consumer) {
        reply(&queue, tag, call);
    }
    // All was answered, so all entries can be taken, each once.
    for _ in 0..futures {
        assert!(
            queue.table.take(&*queue, &*queue, 0).is_some(),
            "a lost entry"
        );
    }
    assert_eq!(queue.table.take(&*queue, &*queue, 0), None);
}

/// Threads that want the one entry, which was abandoned and has been answered: one of them gets it.
pub(super) fn reclaim(threads: usize) {
    let queue = Arc::new(Checked::new(2, 1, 0));
    let table = queue.table;
    let first = table.take(&*queue, &*queue, 0).unwrap();
    table.abandon(&*queue, first);
    reply(&queue, 0, first);
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || table.take(&*queue, &*queue, 0))
        })
        .collect();
    let got = threads
        .into_iter()
        .filter_map(|thread| thread.join().unwrap());
    let next = Call {
        generation: first.generation + 1,
        ..first
    };
    assert_eq!(got.collect::<Vec<_>>(), [next]);
}

fn reply(queue: &Checked, tag: u64, call: Call) {
    assert!(answer(
        queue,
        &queue.table,
        call,
        status::DONE,
        &payload(tag)
    ));
}

fn caller_of(queue: &Checked, first: u64, calls: u64, polls: u32) {
    let table = &queue.table;
    for tag in first..first + calls {
        let Some(call) = table.take(queue, queue, tag as u32) else {
            continue;
        };
        let Reservation::Tickets(ticket) = queue.ring.reserve(queue, queue, 1) else {
            table.give_back(queue, call);
            continue;
        };
        commit(queue, ticket, tag, Some(call));
        let mut out = [0; LENGTH as usize];
        let mut answered = false;
        for _ in 0..polls {
            if let Some(got) = table.poll(queue, call, &mut out) {
                assert_eq!((got.status, got.length), (status::DONE, LENGTH.into()));
                assert_eq!(self::tag(out), tag, "another call's answer");
                answered = true;
                break;
            }
            thread::yield_now();
        }
        if answered {
            table.give_back(queue, call);
        } else {
            table.abandon(queue, call);
        }
    }
}

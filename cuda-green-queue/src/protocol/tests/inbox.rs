//! The slots of an inbox: words that each tell the sequence.

use proptest::prelude::*;

use super::layouts::{InMemory, before_the_wrap};
use crate::{
    layout::{Layout, LayoutRequest},
    protocol::{Shared, TaskHeader},
};

/// The slot of a small queue has room for this payload and three words before it.
const ROOM: usize = 4;

fn header(length: u16) -> TaskHeader {
    TaskHeader {
        method: 0xFFFE,
        length,
        future: 7,
        generation: u32::MAX >> 2,
    }
}

proptest! {
    // A broken line is no case to try again.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A task arrives when all of its words have, in any lap; a longer payload is cut, and a length that lies is harmless.
    #[test]
    fn a_task_of_words(
        lap in 0..3_u64,
        length: u16,
        payload in prop::collection::vec(1..=255_u8, 0..12),
        wanted in 0..12_usize,
    ) {
        let queue = InMemory::new(2, 1, before_the_wrap(2) - 2);
        let (shared, ring) = (&queue.shared, &queue.ring);
        let ticket = before_the_wrap(2) - 2 + 2 * lap;
        // The words of a lap that is none of these.
        for word in 0..ROOM as u64 {
            shared.store(ring.slot(ticket) + 8 * word, 5 << 32);
        }
        let mut out = vec![0xEE; wanted];
        prop_assert_eq!(ring.read_words(shared, ticket, &mut out), None);
        let next = shared.load(ring.slot(ticket + 1));
        let header = header(length.min(if lap == 1 { 2 } else { u16::MAX }));
        ring.commit_words(shared, ticket, &header, &payload);
        prop_assert_eq!(shared.load(ring.slot(ticket + 1)), next, "the next slot");

        let whole = ROOM.min(header.length.into());
        let written = payload.len().min(ROOM);
        if whole.div_ceil(4) > written.div_ceil(4) {
            // The word that the length tells was not written.
            prop_assert_eq!(ring.read_words(shared, ticket, &mut out), None);
            return Ok(());
        }
        prop_assert_eq!(ring.read_words(shared, ticket, &mut out), Some(header));
        for (i, &byte) in out.iter().enumerate() {
            let expected = if i < whole.min(written) { payload[i] } else { 0 };
            prop_assert_eq!(byte, expected, "byte {}", i);
        }
        // Any word of another lap: the task has not arrived.
        for word in 0..3 + whole.div_ceil(4) as u64 {
            let at = ring.slot(ticket) + 8 * word;
            let value = shared.load(at);
            for stale in [value ^ (1 << 32), value & 0xFFFF_FFFF] {
                shared.store(at, stale);
                // Sequence 0 is that of the lap after the wrap.
                if stale != value {
                    prop_assert_eq!(ring.read_words(shared, ticket, &mut out), None, "word {}", word);
                }
            }
            shared.store(at, value);
        }
        prop_assert_eq!(ring.read_words(shared, ticket + 2, &mut out), None);
    }
}

/// The longest payload of each slot is what was asked for, at least.
#[test]
fn a_layout_has_room_for_what_was_asked_for() {
    for payload_bytes in [0, 1, 20, 21, 52, 53, 116, 117, 8180] {
        let request = LayoutRequest {
            payload_bytes,
            depth: 8,
            ..LayoutRequest::default()
        };
        let layout = Layout::for_inbox(&request).unwrap();
        let queue = super::layouts::queue(&layout);
        let room = queue.ring(0, 0).unwrap().inbox_payload_bytes();
        assert!(room >= payload_bytes as usize, "{room} of {payload_bytes}");
        assert!(room <= (2 * payload_bytes as usize + 12).max(20), "{room}");
    }
    let request = LayoutRequest {
        payload_bytes: 8181,
        ..LayoutRequest::default()
    };
    assert!(Layout::for_inbox(&request).is_err());
}

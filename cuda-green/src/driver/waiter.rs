//! The thread that waits for what runs on the GPU, by asking again and again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::inbox::{Inbox, caught, spawn};
use crate::error::Result;

/// The shortest and the longest pause between two rounds of questions.
const PAUSES: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(1));
/// This part of the time that has passed is paused for.
const PART: u32 = 16;

/// Something that ends some day. Dropped before its end, where the thread could not start or panicked, it says so
/// itself.
pub(crate) trait Pending: Send {
    /// Prepares the waiter's thread for [`is_over`](Self::is_over). Returns whether to pause between questions.
    fn prepare(&self) -> bool;

    /// Returns whether it has ended, having told so, or whether its end interests no one any more.
    fn is_over(&self) -> bool;
}

/// A driver's waiter. Its thread holds the driver only as long as it waits for something.
pub(crate) struct Waiter(Arc<Inbox<Entry>>);

impl Default for Waiter {
    fn default() -> Self {
        Self(Arc::new(Inbox::new()))
    }
}

impl Waiter {
    /// Waits for something. Those of one stream, by its number, end in the order in which they come.
    pub(crate) fn wait_for(&self, stream: Option<u64>, pending: Box<dyn Pending>) -> Result<()> {
        self.0.send(Entry { stream, pending }, || {
            let inbox = Arc::clone(&self.0);
            spawn("green-waiter", move || run(&inbox))
        })
    }
}

struct Entry {
    stream: Option<u64>,
    pending: Box<dyn Pending>,
}

impl Entry {
    fn is_over(&self) -> bool {
        self.pending.is_over()
    }
}

/// What is waited for: a queue for each stream, and events by themselves.
#[derive(Default)]
struct Waiting {
    streams: HashMap<u64, VecDeque<Entry>>,
    events: Vec<Entry>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.events.is_empty()
    }

    fn add(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match entry.stream {
                Some(stream) => self.streams.entry(stream).or_default().push_back(entry),
                None => self.events.push(entry),
            }
        }
    }

    /// Asks for all whose turn it is, and takes away what is over. Tells whether anything was.
    fn ask(&mut self) -> bool {
        let mut over = Vec::new();
        self.streams.retain(|_, queue| {
            while queue.front().is_some_and(Entry::is_over) {
                over.extend(queue.pop_front());
            }
            !queue.is_empty()
        });
        over.extend(self.events.extract_if(.., |entry| entry.is_over()));
        let any = !over.is_empty();
        // Their events end here, maybe with the driver.
        caught("the end of an event", move || drop(over));
        any
    }
}

fn run(inbox: &Inbox<Entry>) {
    let served = inbox.served();
    let mut waiting = Waiting::default();
    let mut changed = Instant::now();
    let mut pauses = None;
    loop {
        let new = if waiting.is_empty() {
            match inbox.receive_or_end() {
                Some(new) => new,
                None => break,
            }
        } else {
            inbox.receive(match pauses {
                Some((least, most)) => (changed.elapsed() / PART).clamp(least, most),
                None => Duration::ZERO,
            })
        };
        if let Some(first) = new.first() {
            pauses = first.pending.prepare().then_some(PAUSES);
            changed = Instant::now();
        }
        waiting.add(new);
        if waiting.ask() {
            changed = Instant::now();
        }
    }
    drop(served);
}

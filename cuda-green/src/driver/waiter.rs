//! The thread that waits for work on the GPU by polling events.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::inbox::{Inbox, catch_panic, spawn_detached};
use crate::error::Result;

/// The shortest and the longest pause between two polls.
const PAUSES: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(1));
/// The pause is the time since the last change, divided by this.
const PAUSE_DIVISOR: u32 = 16;

/// Work whose end the waiter waits for. If it is dropped before its end, because the thread could not start or
/// panicked, its destructor reports that.
pub(crate) trait Pending: Send {
    /// Prepares the waiter's thread for [`is_over`](Self::is_over). Returns whether to pause between polls.
    fn prepare(&self) -> bool;

    /// Returns whether it can be dropped: it has ended and reported that, or its end is no longer of interest.
    fn is_over(&self) -> bool;
}

/// A driver's waiter. Its thread holds the driver only while it waits for something.
pub(crate) struct Waiter(Arc<Inbox<WaiterEntry>>);

impl Default for Waiter {
    fn default() -> Self {
        Self(Arc::new(Inbox::new()))
    }
}

impl Waiter {
    /// Has the thread wait for something. Entries of one stream, named by its number, end in the order in which they
    /// are given.
    pub(crate) fn wait_for(&self, stream: Option<u64>, pending: Box<dyn Pending>) -> Result<()> {
        self.0.send(WaiterEntry { stream, pending }, || {
            let inbox = Arc::clone(&self.0);
            spawn_detached("green-waiter", move || run(&inbox))
        })
    }
}

struct WaiterEntry {
    stream: Option<u64>,
    pending: Box<dyn Pending>,
}

impl WaiterEntry {
    fn is_over(&self) -> bool {
        self.pending.is_over()
    }
}

/// The entries that are waited for: a queue for each stream, and events of no stream.
#[derive(Default)]
struct WaitList {
    streams: HashMap<u64, VecDeque<WaiterEntry>>,
    events: Vec<WaiterEntry>,
}

impl WaitList {
    fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.events.is_empty()
    }

    fn add(&mut self, entries: Vec<WaiterEntry>) {
        for entry in entries {
            match entry.stream {
                Some(stream) => self.streams.entry(stream).or_default().push_back(entry),
                None => self.events.push(entry),
            }
        }
    }

    /// Polls the first entry of each stream and all events, and removes those that are over. Returns whether there were
    /// any.
    fn poll(&mut self) -> bool {
        let mut over = Vec::new();
        self.streams.retain(|_, queue| {
            while queue.front().is_some_and(WaiterEntry::is_over) {
                over.extend(queue.pop_front());
            }
            !queue.is_empty()
        });
        over.extend(self.events.extract_if(.., |entry| entry.is_over()));
        let any = !over.is_empty();
        // This drops their events, and perhaps the last handle of the driver.
        catch_panic("the destructor of an event", move || drop(over));
        any
    }
}

/// Runs the waiter's thread.
fn run(inbox: &Inbox<WaiterEntry>) {
    let served = inbox.served();
    let mut waiting = WaitList::default();
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
                Some((least, most)) => (changed.elapsed() / PAUSE_DIVISOR).clamp(least, most),
                None => Duration::ZERO,
            })
        };
        if let Some(first) = new.first() {
            pauses = first.pending.prepare().then_some(PAUSES);
            changed = Instant::now();
        }
        waiting.add(new);
        if waiting.poll() {
            changed = Instant::now();
        }
    }
    drop(served);
}

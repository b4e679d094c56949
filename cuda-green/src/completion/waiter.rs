//! The thread that waits for events.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    State, caught,
    inbox::{self, Inbox},
};
use crate::{
    error::{Error, Result},
    event::Event,
};

/// The shortest and the longest pause between two rounds of questions.
const PAUSES: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(1));
/// This part of the time that has passed is paused for.
const PART: u32 = 16;

/// A driver's waiter. Its thread holds the driver only as long as it waits for something.
pub(crate) struct Waiter(Arc<Inbox<Entry>>);

impl Default for Waiter {
    fn default() -> Self {
        Self(Arc::new(Inbox::new()))
    }
}

impl Waiter {
    /// Waits for an event; those with the same number are done in the order in which they come.
    pub(super) fn wait_for(
        &self,
        event: Event,
        stream: Option<u64>,
        state: Arc<State>,
    ) -> Result<()> {
        let entry = Entry {
            event,
            stream,
            state,
        };
        self.0.send(entry, || {
            let inbox = Arc::clone(&self.0);
            inbox::spawn("green-waiter", move || run(&inbox))
        })
    }
}

struct Entry {
    event: Event,
    stream: Option<u64>,
    state: Arc<State>,
}

impl Entry {
    /// Whether anybody wants to know of its end.
    fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.state) > 1 || self.state.has_callback()
    }

    /// Whether it is over: done, failed, or of no interest any more.
    fn is_over(&self) -> bool {
        if !self.is_wanted() {
            return true;
        }
        match self.event.is_done() {
            Ok(false) => false,
            Ok(true) => {
                self.state.finish(Ok(()));
                true
            }
            Err(error) => {
                self.state.finish(Err(error));
                true
            }
        }
    }
}

impl Drop for Entry {
    /// One that is dropped before its end, as its thread could not start or panicked, says so.
    fn drop(&mut self) {
        self.state.finish(Err(Error::NoThread {
            reason: "it ended before the work did".to_owned(),
        }));
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
            let driver = first.event.device().driver();
            driver.always_beside_captures();
            // A simulated driver's time passes in calls alone: a pause would only make it later.
            pauses = (!driver.is_simulated()).then_some(PAUSES);
            changed = Instant::now();
        }
        waiting.add(new);
        if waiting.ask() {
            changed = Instant::now();
        }
    }
    drop(served);
}

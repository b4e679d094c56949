//! Requests by a schedule, whatever becomes of those before.
//!
//! Several threads send, each spinning until its next request is due. A latency is counted from that moment, so a sender
//! that is late makes the figure worse and not better; how late they were is reported beside it.

use std::{
    hint,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use cuda_green_embed::Embedder;

use super::{
    outcome::{Outcome, record},
    schedule::Schedule,
    task::{self, Task},
};

/// A sleep may end that much late, so senders spin that long.
const SPIN: Duration = Duration::from_micros(500);
/// The time from the making of a run's threads to its start.
const START: Duration = Duration::from_millis(5);

/// Sends a text for each arrival, and returns the answers.
pub fn run(
    embedder: &Embedder,
    texts: &[String],
    schedule: &Schedule,
    senders: usize,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(schedule.length())?;
    let (woken, finished) = mpsc::channel();
    let start = Instant::now() + START;
    thread::scope(|scope| {
        let mut sending = Vec::new();
        for sender in 0..senders {
            let woken = woken.clone();
            let send = move || -> anyhow::Result<Outcome> {
                let mut outcome = Outcome::new(schedule.length())?;
                for (place, due) in schedule.of_sender(sender, senders) {
                    let due = start + due;
                    wait_until(due);
                    record(&mut outcome.lateness, due.elapsed());
                    let Some(text) = texts.get(place % texts.len().max(1)) else {
                        continue;
                    };
                    Task::start(due, embedder.embed(text), &woken, &mut outcome)?;
                }
                Ok(outcome)
            };
            sending.push(thread::Builder::new().spawn_scoped(scope, send)?);
        }
        drop(woken);
        while let Some(task) = task::next(&finished)? {
            task.poll(&mut outcome)?;
        }
        for sender in sending {
            let sent = sender.join();
            let sent = sent.map_err(|_| anyhow::anyhow!("a sender's thread panicked"))??;
            outcome.add_answers(&sent)?;
        }
        Ok(outcome)
    })
}

/// Returns at a moment, not before and hardly after.
fn wait_until(moment: Instant) {
    let left = moment.saturating_duration_since(Instant::now());
    if left > SPIN {
        thread::sleep(left - SPIN);
    }
    while Instant::now() < moment {
        hint::spin_loop();
    }
}

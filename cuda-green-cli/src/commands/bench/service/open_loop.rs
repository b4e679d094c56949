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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::service::fake::GatedService;

    fn texts() -> Vec<String> {
        vec!["a query".to_owned(), "another".to_owned()]
    }

    /// No request has an answer before all are sent: senders that waited for one would wait for ever. The latency of the
    /// first is then at least the time from when it was due until the last was.
    #[test]
    fn slow_answers_delay_no_request() {
        for senders in [1, 3] {
            let schedule = Schedule::poisson(2_000.0, Duration::from_millis(60), 7);
            let due: Vec<_> = schedule.of_sender(0, 1).map(|(_, due)| due).collect();
            let service = GatedService::new(due.len(), 1_024);
            let outcome = run(&service.embedder, &texts(), &schedule, senders).unwrap();
            assert_eq!(outcome.requests(), due.len() as u64);
            assert_eq!(outcome.refused, 0);
            assert_eq!(outcome.lateness.len(), due.len() as u64);
            let (first, last) = (due[0], due[due.len() - 1]);
            assert!(Duration::from_nanos(outcome.answered.max()) >= last - first);
        }
    }

    /// The only sender is held up by the first request until all others are due: that is theirs to bear, and is reported.
    #[test]
    fn a_late_sender_makes_the_figures_worse() {
        let schedule = Schedule::poisson(2_000.0, Duration::from_millis(20), 5);
        let due: Vec<_> = schedule.of_sender(0, 1).map(|(_, due)| due).collect();
        let held = Duration::from_millis(40);
        let service = GatedService::with_hook(0, 1_024, move |number| {
            if number == 1 {
                thread::sleep(held);
            }
        });
        let outcome = run(&service.embedder, &texts(), &schedule, 1).unwrap();
        let least = due[0] + held - due[due.len() - 1];
        // The histogram rounds to three figures.
        let least = least.mul_f64(0.999);
        assert!(outcome.at(0.0).unwrap() >= least);
        assert!(Duration::from_nanos(outcome.lateness.max()) >= least);
    }

    /// One is on the way, four wait, and nothing is answered before another three were refused.
    #[test]
    fn refused_requests_are_counted() {
        let schedule = Schedule::poisson(2_000.0, Duration::from_millis(30), 3);
        let arrivals = schedule.of_sender(0, 1).count() as u64;
        assert!(arrivals > 20);
        let service = GatedService::new(usize::MAX, 4);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                while service.embedder.status().interactive.overloaded < 3 {
                    thread::yield_now();
                }
                service.open();
            });
            run(&service.embedder, &texts(), &schedule, 2).unwrap()
        });
        assert!(outcome.refused >= 3);
        assert_eq!(outcome.requests(), arrivals);
        assert_eq!(
            service.embedder.status().interactive.overloaded,
            outcome.refused
        );
    }

    #[test]
    fn a_moment_is_waited_for() {
        for ahead in [Duration::ZERO, Duration::from_micros(50), SPIN * 3] {
            let moment = Instant::now() + ahead;
            wait_until(moment);
            assert!(Instant::now() >= moment);
        }
    }
}

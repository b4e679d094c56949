//! Requests each of which waits for the one before: one caller for the latency of a lone request, and many for what the
//! lane can do.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use cuda_green_embed::Embedder;

use super::{
    outcome::Outcome,
    task::{self, Task},
};

/// The pause between two requests of the lone caller, as `embed_floods.py`, with whose figures its own are compared,
/// makes it.
pub const PAUSE: Duration = Duration::from_micros(500);
/// Requests of each of the many callers on the way.
pub const ON_THE_WAY: usize = 64;

/// Makes requests one after another for a time, with the caller blocked until each is answered and pausing before each;
/// at least one.
pub fn one_caller(
    embedder: &Embedder,
    texts: &[String],
    pause: Duration,
    length: Duration,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(length)?;
    let begin = Instant::now();
    for text in texts.iter().cycle() {
        thread::sleep(pause);
        let sent = Instant::now();
        task::note(sent, embedder.embed(text).wait(), &mut outcome)?;
        if begin.elapsed() >= length {
            break;
        }
    }
    Ok(outcome)
}

/// Returns the requests a second that a lane answers so many callers, each of which keeps [`ON_THE_WAY`] requests on the
/// way.
pub fn capacity(
    embedder: &Embedder,
    texts: &[String],
    length: Duration,
    callers: usize,
) -> anyhow::Result<f64> {
    thread::scope(|scope| {
        let mut calling = Vec::new();
        for caller in 0..callers {
            let texts = texts.iter().cycle().skip(caller);
            let call = move || keep_on_the_way(embedder, texts, length);
            calling.push(thread::Builder::new().spawn_scoped(scope, call)?);
        }
        let mut per_second = 0.0;
        for caller in calling {
            let joined = caller.join();
            per_second += joined.map_err(|_| anyhow::anyhow!("a caller's thread panicked"))??;
        }
        Ok(per_second)
    })
}

/// Returns the requests a second that one caller was answered in about this time.
fn keep_on_the_way<'t>(
    embedder: &Embedder,
    mut texts: impl Iterator<Item = &'t String>,
    length: Duration,
) -> anyhow::Result<f64> {
    let mut outcome = Outcome::new(length)?;
    let (woken, finished) = mpsc::channel();
    let begin = Instant::now();
    let mut started = 0;
    let mut start = |outcome: &mut Outcome| -> anyhow::Result<()> {
        started += 1;
        let text = texts.next().context("there is no text")?;
        Task::start(Instant::now(), embedder.embed(text), &woken, outcome)
    };
    for _ in 0..ON_THE_WAY {
        start(&mut outcome)?;
    }
    let next = |outcome: &mut Outcome| -> anyhow::Result<()> {
        let task = task::next(&finished)?.context("a request was lost")?;
        task.poll(outcome)
    };
    while begin.elapsed() < length || outcome.answered.is_empty() {
        next(&mut outcome)?;
        start(&mut outcome)?;
    }
    let per_second = outcome.answered.len() as f64 / begin.elapsed().as_secs_f64();
    // Those on the way must end before the next measurement.
    while outcome.requests() < started {
        next(&mut outcome)?;
    }
    Ok(per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::service::fake::GatedService;

    fn texts() -> Vec<String> {
        vec!["a query".to_owned(), "another".to_owned()]
    }

    #[test]
    fn one_caller_has_one_request_on_the_way() {
        let service = GatedService::new(0, 8);
        let length = Duration::from_millis(5);
        let outcome = one_caller(&service.embedder, &texts(), Duration::ZERO, length).unwrap();
        assert!(outcome.requests() >= 1 && outcome.refused == 0);
        assert_eq!(service.largest_batch(), 1);
        // Without any time, there is one.
        let once = one_caller(&service.embedder, &texts(), Duration::ZERO, Duration::ZERO);
        assert_eq!(once.unwrap().requests(), 1);
    }

    /// Nothing is answered before so many are on the way: with fewer, it would wait for ever.
    #[test]
    fn many_callers_keep_so_many_on_the_way() {
        let callers = 3;
        let service = GatedService::new(callers * ON_THE_WAY, 1_024);
        let found = capacity(&service.embedder, &texts(), Duration::ZERO, callers).unwrap();
        assert!(found > 0.0);
        // All have ended: nothing is left for the next measurement.
        let status = service.embedder.status();
        assert_eq!(
            (status.interactive.queued, status.interactive.on_the_way),
            (0, 0)
        );
        assert_eq!(status.interactive.cancelled, 0);
    }
}

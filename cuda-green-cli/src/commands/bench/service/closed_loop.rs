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
const PAUSE: Duration = Duration::from_micros(500);
/// Requests of each of the many callers on the way.
pub const ON_THE_WAY: usize = 64;

/// Makes requests one after another for a time, with the caller blocked until each is answered; at least one.
pub fn one_caller(
    embedder: &Embedder,
    texts: &[String],
    length: Duration,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(length)?;
    let begin = Instant::now();
    for text in texts.iter().cycle() {
        let sent = Instant::now();
        task::note(sent, embedder.embed(text).wait(), &mut outcome)?;
        if begin.elapsed() >= length {
            break;
        }
        thread::sleep(PAUSE);
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
        let mut answered = 0;
        for caller in calling {
            let joined = caller.join();
            answered += joined.map_err(|_| anyhow::anyhow!("a caller's thread panicked"))??;
        }
        Ok(answered as f64 / length.as_secs_f64())
    })
}

/// Returns the requests that were answered in time.
fn keep_on_the_way<'t>(
    embedder: &Embedder,
    mut texts: impl Iterator<Item = &'t String>,
    length: Duration,
) -> anyhow::Result<u64> {
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
    let mut in_time = 0;
    while begin.elapsed() < length {
        let Some(task) = task::next(&finished)? else {
            break;
        };
        task.poll(&mut outcome)?;
        in_time = outcome.answered.len();
        start(&mut outcome)?;
    }
    // Those on the way must end before the next measurement.
    while outcome.requests() < started {
        match task::next(&finished)? {
            Some(task) => task.poll(&mut outcome)?,
            None => break,
        }
    }
    Ok(in_time)
}

//! The queue's threads while nothing is submitted, and the first task after a pause.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use super::{
    figures::Idle,
    lengths::Lengths,
    own::Own,
    times::{Found, Times, Trips},
};

/// The processor time of each thread of this process in nanoseconds, by its number. Empty where the system does not say.
fn busy() -> BTreeMap<String, u64> {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let time = text.split(' ').next()?.parse().ok()?;
            Some((thread.file_name().into_string().ok()?, time))
        })
        .collect()
}

pub fn measure(own: &Own, lengths: &Lengths) -> anyhow::Result<Idle> {
    let pause = Duration::from_millis(lengths.pause_ms);
    let watched = Duration::from_millis(lengths.watched_ms);
    let (mut percents, mut repeats) = (Vec::new(), Vec::new());
    for _ in 0..lengths.repeats {
        let others = busy();
        let queue = own.inline_queue()?;
        own.one_trip(&queue)?;
        thread::sleep(pause);
        let before = busy();
        thread::sleep(watched);
        let after = busy();
        // The threads that were not there before are the queue's.
        let spent = after
            .iter()
            .filter(|(thread, _)| !others.contains_key(*thread));
        let spent: u64 = spent
            .map(|(thread, time)| time - before.get(thread).copied().unwrap_or_default())
            .sum();
        percents.push(spent as f64 / watched.as_nanos() as f64 * 100.0);
        let mut first = Times::new()?;
        for _ in 0..lengths.pauses {
            thread::sleep(pause);
            first.add(own.one_trip(&queue)?);
        }
        repeats.push(first);
    }
    Ok(Idle {
        idle_before_ms: pause.as_secs_f64() * 1e3,
        watched_ms: watched.as_secs_f64() * 1e3,
        percent_of_a_core: Found::of(percents),
        first: Trips::of(&repeats.iter().collect::<Vec<_>>())?,
    })
}

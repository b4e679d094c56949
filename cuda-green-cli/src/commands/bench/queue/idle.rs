//! The queue's polling thread while nothing is submitted, and the first task after a pause.

use std::{thread, time::Duration};

use anyhow::Context;

use super::{
    figures::Idle,
    lengths::Lengths,
    own::{Own, Summed},
    times::{Found, Times, Trips},
};

pub fn measure(own: &Own, lengths: &Lengths) -> anyhow::Result<Idle> {
    let pause = Duration::from_millis(lengths.pause_ms);
    let watched = Duration::from_millis(lengths.watched_ms);
    let (mut percents, mut repeats) = (Vec::new(), Vec::new());
    for _ in 0..lengths.repeats {
        let summed = own.queue(4, 1, true)?;
        own.one_trip(&summed)?;
        thread::sleep(pause);
        let before = busy(&summed)?;
        thread::sleep(watched);
        let spent = busy(&summed)?.saturating_sub(before);
        percents.push(spent.as_secs_f64() / watched.as_secs_f64() * 100.0);
        let mut first = Times::new()?;
        for _ in 0..lengths.pauses {
            thread::sleep(pause);
            first.add(own.one_trip(&summed)?);
        }
        repeats.push(first);
        summed.queue.shutdown()?;
    }
    Ok(Idle {
        idle_before_ms: pause.as_secs_f64() * 1e3,
        watched_ms: watched.as_secs_f64() * 1e3,
        percent_of_a_core: Found::of(percents),
        first: Trips::of(&repeats.iter().collect::<Vec<_>>())?,
    })
}

/// Returns the processor time of the polling threads.
fn busy(summed: &Summed) -> anyhow::Result<Duration> {
    let stats = summed.queue.stats();
    let pollers = stats.devices.iter().flat_map(|device| &device.pollers);
    let times: Option<Vec<_>> = pollers.map(|poller| poller.cpu_time).collect();
    let times = times.context("this system does not tell a thread's processor time")?;
    Ok(times.iter().sum())
}

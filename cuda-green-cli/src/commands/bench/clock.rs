//! Timing of several ways to do the same: in turn within one run, by batches of calls or call by call.

use std::{hint::black_box, time::Instant};

use cuda_green::CudaDevice;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::samples::{Distribution, Samples};

/// One way of doing something, which adds the times that it measured.
pub type Way<'a> = &'a mut dyn FnMut(&mut Vec<f64>) -> anyhow::Result<()>;

/// Times all ways in each round. Each goes first in turn, so that none always finds the caches as another left them.
pub fn alternate<const N: usize>(
    rounds: usize,
    ways: [Way<'_>; N],
) -> anyhow::Result<[Samples; N]> {
    let mut turns = ways.map(|way| (way, Vec::new()));
    for _ in 0..rounds {
        for (way, times) in &mut turns {
            way(times)?;
        }
        turns.rotate_left(1.min(N));
    }
    turns.rotate_right(rounds % N.max(1));
    Ok(turns.map(|(_, times)| Samples::of(times)))
}

/// Returns the mean nanoseconds of one call over a batch.
pub fn batch(calls: usize, mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / calls as f64)
}

/// Adds the nanoseconds of each call, including the clock's own cost.
pub fn each(
    calls: usize,
    times: &mut Vec<f64>,
    mut call: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    times.reserve(calls);
    for _ in 0..calls {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed().as_nanos() as f64);
    }
    Ok(())
}

/// Returns what [`each`] measures for an empty call.
pub fn alone(calls: usize) -> anyhow::Result<Distribution> {
    let mut times = Vec::new();
    each(calls, &mut times, || {
        black_box(());
        Ok(())
    })?;
    Ok(Samples::of(times).into())
}

/// The cost of a call through this library and through the driver's raw calls.
#[derive(Serialize, Deserialize)]
pub struct Comparison {
    pub call: String,
    pub ours_ns: f64,
    pub raw_ns: f64,
    /// The ratio of the medians; none on a simulated driver, where the times are those of the simulation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    pub ours_p99_ns: f64,
    pub raw_p99_ns: f64,
    pub rounds: usize,
}

impl Comparison {
    pub fn of(device: &CudaDevice, call: &str, ours: &Samples, raw: &Samples) -> Self {
        let (ours_ns, raw_ns) = (ours.at(0.5), raw.at(0.5));
        Self {
            call: call.to_owned(),
            ours_ns,
            raw_ns,
            ratio: (!device.driver().is_simulated()).then(|| ours_ns / raw_ns),
            ours_p99_ns: ours.at(0.99),
            raw_p99_ns: raw.at(0.99),
            rounds: ours.len(),
        }
    }
}

/// The extent of a comparison, and its progress.
pub struct Rounds<'a> {
    pub device: &'a CudaDevice,
    pub rounds: usize,
    pub progress: &'a ProgressBar,
}

impl Rounds<'_> {
    /// Times both in alternating batches of `calls` calls, after one batch of each to warm up.
    pub fn compare(
        &self,
        name: &str,
        calls: usize,
        mut ours: impl FnMut() -> anyhow::Result<()>,
        mut raw: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Comparison> {
        self.progress.set_message(name.to_owned());
        batch(calls, &mut ours)?;
        batch(calls, &mut raw)?;
        let [ours, raw] = alternate(
            self.rounds,
            [
                &mut |times| {
                    times.push(batch(calls, &mut ours)?);
                    Ok(())
                },
                &mut |times| {
                    times.push(batch(calls, &mut raw)?);
                    Ok(())
                },
            ],
        )?;
        self.progress.inc(1);
        Ok(Comparison::of(self.device, name, &ours, &raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_goes_first_in_turn_and_keeps_its_own_times() {
        for rounds in 0..8 {
            let order = std::cell::RefCell::new(Vec::new());
            let way = |which: u32| {
                let order = &order;
                move |times: &mut Vec<f64>| {
                    order.borrow_mut().push(which);
                    times.push(f64::from(which));
                    Ok(())
                }
            };
            let samples = alternate(rounds, [&mut way(0), &mut way(1), &mut way(2)]).unwrap();
            for (which, samples) in samples.iter().enumerate() {
                assert_eq!(samples.len(), rounds);
                assert!(rounds == 0 || samples.at(0.0) == which as f64);
                assert!(rounds == 0 || samples.at(1.0) == which as f64);
            }
            let firsts: Vec<u32> = order.borrow().iter().step_by(3).copied().collect();
            let expected: Vec<u32> = (0..3).cycle().take(rounds).collect();
            assert_eq!(firsts, expected);
        }
    }

    #[test]
    fn what_fails_is_told() {
        let fail = || anyhow::bail!("refused");
        assert!(batch(1, fail).is_err());
        assert!(each(1, &mut Vec::new(), fail).is_err());
        assert!(alternate(1, [&mut |_: &mut Vec<f64>| anyhow::bail!("refused")]).is_err());
    }
}

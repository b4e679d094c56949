//! The measured curve of throughput and latency by batch size.

use std::{collections::BTreeMap, fmt, time::Duration};

/// The share of the best throughput that a smaller batch may fall short of and still be taken.
const TOLERANCE: f64 = 0.03;

/// The times of one run of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSample {
    /// The number of tokens in the batch.
    pub tokens: usize,
    /// The time from the submission of a batch, on an idle encoder, to its vectors.
    pub latency: Duration,
    /// The time from one batch's vectors to the next one's while the encoder is kept busy.
    pub interval: Duration,
}

/// The measured times of a batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPoint {
    /// The number of texts in a batch.
    pub texts: usize,
    /// The number of tokens in a batch.
    pub tokens: usize,
    /// The median of the latencies.
    pub latency: Duration,
    /// The median of the intervals.
    pub interval: Duration,
}

/// The measured times of several batch sizes of one model, precision, device, partition size and text length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchCurve {
    points: Vec<BatchPoint>,
}

impl BatchPoint {
    /// Returns the texts a second of an encoder that is kept busy with such batches.
    pub fn texts_per_second(&self) -> f64 {
        self.texts as f64 / self.interval.as_secs_f64().max(1e-9)
    }

    /// Returns the tokens a second of an encoder that is kept busy with such batches.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.interval.as_secs_f64().max(1e-9)
    }
}

impl BatchCurve {
    /// Makes it from points in any order. Of two with the same number of texts, the later one counts.
    pub fn new(points: impl IntoIterator<Item = BatchPoint>) -> Self {
        let by_size: BTreeMap<_, _> = points
            .into_iter()
            .map(|point| (point.texts, point))
            .collect();
        Self {
            points: by_size.into_values().collect(),
        }
    }

    /// Returns the points, the smallest batch first.
    pub fn points(&self) -> &[BatchPoint] {
        &self.points
    }

    /// Returns the smallest batch whose throughput is within 3 % of the best, among those whose latency is at most
    /// `latency`; without one, among all. Returns `None` if no batch is so fast.
    ///
    /// Throughput levels off with size while latency grows on, so the last few per cent would cost the most latency; and
    /// they are less than what two sweeps differ by.
    pub fn best(&self, latency: Option<Duration>) -> Option<&BatchPoint> {
        let allowed = |point: &&BatchPoint| latency.is_none_or(|most| point.latency <= most);
        let candidates = self.points.iter().filter(allowed);
        let best = candidates
            .clone()
            .map(BatchPoint::texts_per_second)
            .fold(0.0, f64::max);
        candidates
            .into_iter()
            .find(|point| point.texts_per_second() >= best * (1.0 - TOLERANCE))
    }
}

impl fmt::Display for BatchCurve {
    /// Writes a table with a bar for each throughput; the chosen size has an asterisk.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BAR: f64 = 40.0;
        let chosen = self.best(None).map(|point| point.texts);
        let best = self
            .points
            .iter()
            .map(BatchPoint::texts_per_second)
            .fold(1e-9, f64::max);
        writeln!(f, "  texts  tokens  latency ms     texts/s")?;
        for point in &self.points {
            let speed = point.texts_per_second();
            let mark = if chosen == Some(point.texts) {
                '*'
            } else {
                ' '
            };
            let bar = "#".repeat((speed / best * BAR).round() as usize);
            writeln!(
                f,
                "{mark} {:>5}  {:>6}  {:>10.3}  {:>10.0}  {bar}",
                point.texts,
                point.tokens,
                point.latency.as_secs_f64() * 1e3,
                speed,
            )?;
        }
        Ok(())
    }
}

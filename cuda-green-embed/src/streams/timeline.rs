//! The times of a pipelined run, which show how much of it overlapped.

use std::{fmt, time::Duration};

/// The time that a stage took for a batch, since the start of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The start.
    pub start: Duration,
    /// The end.
    pub end: Duration,
}

/// The times of a batch in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// The number of texts.
    pub texts: usize,
    /// The number of tokens.
    pub tokens: usize,
    /// The preparation: tokenising and packing.
    pub prepare: Span,
    /// The computation, from the submission, or from the end of the batch before if that is later, to the vectors.
    pub compute: Span,
    /// The delivery of the vectors.
    pub deliver: Span,
}

/// The times of all batches of a run, in order: one entry a batch, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    batches: Vec<BatchTimes>,
}

/// Figures of a run. Each share is between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// The time from the start of the run to its last delivery.
    pub wall: Duration,
    /// The share of that time in which a batch was computed.
    pub compute_busy: f64,
    /// The share of the time of preparing in which another batch was computed.
    pub prepare_hidden: f64,
    /// The share of the time of delivering in which another batch was computed.
    pub deliver_hidden: f64,
}

impl Timeline {
    /// Makes it from the times of the batches, in order.
    pub fn new(batches: Vec<BatchTimes>) -> Self {
        Self { batches }
    }

    /// Returns the times of the batches, in order.
    pub fn batches(&self) -> &[BatchTimes] {
        &self.batches
    }

    /// Returns the time from the start of the run to its last delivery.
    pub fn wall(&self) -> Duration {
        let ends = self.batches.iter().map(|times| times.deliver.end);
        ends.max().unwrap_or_default()
    }

    /// Returns how much of the run overlapped. Where a stage took no time, its share is 0.
    pub fn overlap(&self) -> Overlap {
        let stage = |of: fn(&BatchTimes) -> Span| merged(self.batches.iter().map(of).collect());
        let compute = stage(|times| times.compute);
        let hidden = |spans: &[Span]| share(common(spans, &compute), length(spans));
        Overlap {
            wall: self.wall(),
            compute_busy: share(length(&compute), self.wall()),
            prepare_hidden: hidden(&stage(|times| times.prepare)),
            deliver_hidden: hidden(&stage(|times| times.deliver)),
        }
    }
}

/// Returns disjoint spans in order that cover the same time.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|span| span.start < span.end);
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}

/// Returns the time that disjoint spans cover.
fn length(spans: &[Span]) -> Duration {
    spans.iter().map(|span| span.end - span.start).sum()
}

/// Returns the time that two lists of disjoint spans in order both cover.
fn common(one: &[Span], other: &[Span]) -> Duration {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut sum = Duration::ZERO;
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        sum += a.end.min(b.end).saturating_sub(a.start.max(b.start));
        if a.end < b.end {
            one.next();
        } else {
            other.next();
        }
    }
    sum
}

/// Returns a part as a share of the whole, and 0 of nothing.
fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() {
        return 0.0;
    }
    part.as_secs_f64() / whole.as_secs_f64()
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} ms: computing {:.0} % of it; {:.0} % of preparing and {:.0} % of delivering were hidden behind computing",
            self.wall.as_secs_f64() * 1e3,
            self.compute_busy * 100.0,
            self.prepare_hidden * 100.0,
            self.deliver_hidden * 100.0,
        )
    }
}

impl fmt::Display for Timeline {
    /// Draws the first batches, one a line: `p` for preparing, `c` for computing, `d` for delivering, `.` for waiting.
    /// Stages of different lines in one column ran at the same time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LINES: usize = 12;
        const COLUMNS: usize = 72;
        let shown = self.batches.get(..LINES).unwrap_or(&self.batches);
        let end = shown.iter().map(|times| times.deliver.end).max();
        let scale = COLUMNS as f64 / end.unwrap_or_default().as_secs_f64().max(1e-9);
        let column = |time: Duration| ((time.as_secs_f64() * scale) as usize).min(COLUMNS - 1);
        for (number, times) in shown.iter().enumerate() {
            let mut line = vec![' '; COLUMNS];
            let waits = Span {
                start: times.prepare.start,
                end: times.deliver.end,
            };
            for (sign, span) in [
                ('.', waits),
                ('p', times.prepare),
                ('c', times.compute),
                ('d', times.deliver),
            ] {
                // A stage that took less than a column has one all the same.
                let columns = column(span.start)..=column(span.end).max(column(span.start));
                if let Some(cells) = line.get_mut(columns) {
                    cells.fill(sign);
                }
            }
            let line: String = line.into_iter().collect();
            writeln!(f, "{number:>4} {}", line.trim_end())?;
        }
        if self.batches.len() > LINES {
            writeln!(f, "     ... {} more", self.batches.len() - LINES)?;
        }
        write!(f, "{} batches in {}", self.batches.len(), self.overlap())
    }
}

//! The search for the best batch size, by measuring.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{BatchCurve, BatchPoint, BatchSample, PackedBatch, sweep_file};
use crate::{
    encoder::Encoder,
    error::{Error, Result},
    precision::InferencePrecision,
};

/// The circumstances that a measured curve holds for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SweepKey {
    model: String,
    precision: &'static str,
    device: String,
    sms: u32,
    tokens_of_text: usize,
}

/// The sizes to measure, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The numbers of texts in a batch.
    pub sizes: Vec<usize>,
    /// The number of measurements of each size; the median counts.
    pub repeats: usize,
}

/// Finds the batch size of the best throughput, by measuring each and not by a formula, and keeps the curves on disk.
///
/// A formula from memory sizes would say what fits, which is hundreds of times more than what is worthwhile: throughput
/// levels off once a batch fills the partition's SMs.
///
/// ```
/// use std::time::Instant;
///
/// use cuda_green::GreenContext;
/// use cuda_green_embed::{
///     BatchSizeOptimizer, Encoder, InferencePrecision, Result, Sweep, SweepKey,
/// };
///
/// fn best(context: &GreenContext, encoder: &dyn Encoder) -> Result<Option<usize>> {
///     let device = context.device().name();
///     let precision = InferencePrecision::FP16;
///     let key = SweepKey::new("all-MiniLM-L6-v2", precision, device, context.sm_count(), 18);
///     let mut optimizer = BatchSizeOptimizer::open("batch-sizes.json");
///     if optimizer.curve(&key).is_none() {
///         let sweep = Sweep::default();
///         let token = 2023; // "this"
///         let curve =
///             optimizer.measure_encoder(key.clone(), &sweep, encoder, token, Instant::now)?;
///         println!("{key}\n{curve}");
///     }
///     Ok(optimizer.optimal_batch_size(&key, None))
/// }
/// ```
#[derive(Debug, Default)]
pub struct BatchSizeOptimizer {
    path: Option<PathBuf>,
    curves: BTreeMap<SweepKey, BatchCurve>,
}

impl SweepKey {
    /// Makes a key: the model's name or hash, the precision, the device's name, the SMs of the partition, and the typical
    /// number of tokens of a text, which is rounded up to a power of two.
    pub fn new(
        model: impl Into<String>,
        precision: InferencePrecision,
        device: impl Into<String>,
        sms: u32,
        tokens_of_text: usize,
    ) -> Self {
        Self {
            model: model.into(),
            precision: precision.name(),
            device: device.into(),
            sms,
            tokens_of_text: tokens_of_text
                .checked_next_power_of_two()
                .unwrap_or(usize::MAX),
        }
    }

    /// Returns the model's name or hash.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Returns the precision's name.
    pub fn precision(&self) -> &str {
        self.precision
    }

    /// Returns the device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Returns the number of SMs.
    pub fn sms(&self) -> u32 {
        self.sms
    }

    /// Returns the tokens of a text, rounded up to a power of two.
    pub fn tokens_of_text(&self) -> usize {
        self.tokens_of_text
    }
}

impl fmt::Display for SweepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            model,
            precision,
            device,
            sms,
            tokens_of_text,
        } = self;
        write!(
            f,
            "{model} in {precision} on {sms} SMs of {device}, texts of up to {tokens_of_text} tokens"
        )
    }
}

impl Default for Sweep {
    /// Returns the powers of two from 1 to 2,048, five times each.
    fn default() -> Self {
        Self {
            sizes: (0..=11).map(|power| 1 << power).collect(),
            repeats: 5,
        }
    }
}

impl BatchSizeOptimizer {
    /// Makes one that keeps its curves in memory only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes one that keeps its curves in a file, with those that the file has. A file that is damaged or was written by
    /// another version of this crate, whose kernels may be faster or slower, counts as empty: this is logged as a
    /// warning, and the next measurement replaces the file.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            curves: sweep_file::read(&path),
            path: Some(path),
        }
    }

    /// Returns the file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns the keys and curves.
    pub fn curves(&self) -> impl ExactSizeIterator<Item = (&SweepKey, &BatchCurve)> {
        self.curves.iter()
    }

    /// Returns the curve of a key, if it was measured.
    pub fn curve(&self, key: &SweepKey) -> Option<&BatchCurve> {
        self.curves.get(key)
    }

    /// Returns the number of texts of the best batch, as [`BatchCurve::best`] chooses it. Returns `None` if the key was
    /// not measured, or no size keeps the latency.
    pub fn optimal_batch_size(&self, key: &SweepKey, latency: Option<Duration>) -> Option<usize> {
        Some(self.curve(key)?.best(latency)?.texts)
    }

    /// Measures each size with `run`, which is given a number of texts and runs such a batch, and keeps the medians. The
    /// curve replaces an earlier one of the key and is written to the file.
    ///
    /// Each size runs once before anything counts. The repeats go over all sizes in turn, so that a clock that slows
    /// down meanwhile slows all of them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without a size or a repeat, or with a size of 0; those of `run`; [`Error::File`] if the
    /// file cannot be written, where the curve is kept in memory nevertheless.
    pub fn measure(
        &mut self,
        key: SweepKey,
        sweep: &Sweep,
        mut run: impl FnMut(usize) -> Result<BatchSample>,
    ) -> Result<&BatchCurve> {
        let refuse = |field, expected: &str| {
            Err(Error::InvalidConfig {
                field,
                found: 0,
                expected: expected.to_owned(),
            })
        };
        if sweep.sizes.is_empty() {
            return refuse("number of sizes", "at least 1 that the encoder takes");
        }
        if sweep.sizes.contains(&0) {
            return refuse("batch size", "at least 1");
        }
        if sweep.repeats == 0 {
            return refuse("repeats", "at least 1");
        }
        for size in &sweep.sizes {
            run(*size)?;
        }
        let mut samples = vec![Vec::with_capacity(sweep.repeats); sweep.sizes.len()];
        for _ in 0..sweep.repeats {
            for (size, samples) in sweep.sizes.iter().zip(&mut samples) {
                samples.push(run(*size)?);
            }
        }
        let points = sweep.sizes.iter().zip(&samples).map(|(&texts, samples)| {
            let median = |of: fn(&BatchSample) -> Duration| {
                let mut times: Vec<_> = samples.iter().map(of).collect();
                times.sort_unstable();
                times.get(times.len() / 2).copied().unwrap_or_default()
            };
            BatchPoint {
                texts,
                tokens: samples.first().map_or(0, |sample| sample.tokens),
                latency: median(|sample| sample.latency),
                interval: median(|sample| sample.interval),
            }
        });
        let curve = BatchCurve::new(points);
        if let Some(path) = &self.path {
            // Another process may have measured something else meanwhile.
            for (other, curve) in sweep_file::read(path) {
                self.curves.entry(other).or_insert(curve);
            }
        }
        self.curves.insert(key.clone(), curve);
        if let Some(path) = &self.path {
            sweep_file::write(path, &self.curves)?;
        }
        Ok(self.curves.entry(key).or_default())
    }

    /// Measures an encoder with batches of as many texts as each size says. Each text has the key's length, or the longest
    /// that the encoder takes, and all its tokens are `token`. Sizes that the encoder does not take are left out. `clock` is
    /// [`Instant::now`] but in tests.
    ///
    /// # Errors
    /// As [`measure`](Self::measure) and [`Encoder::submit`].
    pub fn measure_encoder(
        &mut self,
        key: SweepKey,
        sweep: &Sweep,
        encoder: &dyn Encoder,
        token: u32,
        clock: impl Fn() -> Instant,
    ) -> Result<&BatchCurve> {
        /// The batches of which the interval is the mean. Two are on the way at a time.
        const BATCHES: u32 = 4;
        let limits = encoder.limits();
        let length = key.tokens_of_text.min(limits.tokens_of_text);
        let fits =
            |size: &usize| *size <= limits.texts && size.saturating_mul(length) <= limits.tokens;
        let sweep = Sweep {
            sizes: sweep.sizes.iter().copied().filter(fits).collect(),
            repeats: sweep.repeats,
        };
        let text = vec![token; length];
        self.measure(key, &sweep, |size| {
            let batch: PackedBatch = std::iter::repeat_n(&text, size).collect();
            let start = clock();
            encoder.encode(&batch)?;
            let alone = clock();
            let mut pending = encoder.submit(&batch)?;
            for _ in 1..BATCHES {
                let next = encoder.submit(&batch)?;
                pending.wait()?;
                pending = next;
            }
            pending.wait()?;
            Ok(BatchSample {
                tokens: batch.tokens(),
                latency: alone.saturating_duration_since(start),
                interval: clock().saturating_duration_since(alone) / BATCHES,
            })
        })
    }
}

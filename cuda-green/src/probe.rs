//! Probes by residency: blocks of known duration that fill every SM of a context.
//!
//! SM ids show where blocks ran, but under MPS each context numbers them from 0, and they reveal nothing about
//! work that this process does not know of. A probe needs no ids. Its blocks take all threads of an SM, so each SM
//! holds a fixed number of them and nothing else, and each block stays for a known time. If all of them
//! are resident at once, nothing else runs on the SMs at that moment; if some start late, something else did.

mod filler;
#[cfg(target_os = "linux")]
mod residency;
mod sm_ids;

use std::{fmt, time::Duration};

use crate::{error::Result, event::Event, partition::GreenContext};

use filler::Filler;
#[cfg(target_os = "linux")]
pub(crate) use residency::Residency;

/// Maximal number of rounds of [`GreenContext::probe`].
const ROUNDS: u32 = 16;
/// Number of late rounds that suffice to show that other work is there. Each round may wait for a block of that work.
const LATE_ROUNDS: u32 = 4;
/// Time that each block stays in a round.
const ROUND: Duration = Duration::from_micros(100);
/// A round that takes no longer than this beyond [`ROUND`] counts as undisturbed. On an idle H200 the longest of
/// 16 rounds took 2.9 to 3.2 µs more in each of six runs (driver 580).
const TOLERANCE: Duration = Duration::from_micros(25);
/// Tolerance of the first round, in which the driver loads the kernel.
const FIRST_TOLERANCE: Duration = Duration::from_millis(1);
/// Time that each block stays when several contexts are filled at once.
const TOGETHER: Duration = Duration::from_millis(2);
/// Addition to [`TOGETHER`] for each context, since all their kernels must be launched within that time.
const TOGETHER_PER_CONTEXT: Duration = Duration::from_micros(100);
/// Attempts to have the blocks of several contexts resident at once: the host may be interrupted between launches.
const TRIES: u32 = 3;

/// The result of [`GreenContext::probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContextProbe {
    /// The context's own streams had work, so it was not probed.
    InUse,
    /// In every round all blocks were resident at once.
    Undisturbed {
        /// Rounds that were run.
        rounds: u32,
        /// The longest time that a round took beyond its known duration.
        longest_delay: Duration,
    },
    /// Blocks started late in some rounds: something else ran on SMs of the context.
    Disturbed {
        /// Rounds that were run.
        rounds: u32,
        /// Rounds in which blocks started late.
        late: u32,
        /// The longest time that a round took beyond its known duration.
        longest_delay: Duration,
    },
}

impl fmt::Display for ContextProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("in use, so not probed"),
            Self::Undisturbed {
                rounds,
                longest_delay,
            } => write!(
                f,
                "undisturbed in {rounds} rounds (at most {longest_delay:.1?} late)"
            ),
            Self::Disturbed {
                rounds,
                late,
                longest_delay,
            } => write!(
                f,
                "disturbed in {late} of {rounds} rounds, by up to {longest_delay:.1?}"
            ),
        }
    }
}

impl GreenContext {
    /// Detects other work on the context's SMs while the context itself is idle.
    ///
    /// In each of up to 16 rounds a kernel fills every SM of the context with blocks that stay for 100 µs. Any other
    /// work on one of these SMs makes blocks start late: streams left in the primary context, contexts that overlap,
    /// other processes, both under MPS and by time slices. The probe ends after four late rounds. Without other work
    /// it takes about 3 ms. Work that is put into the context meanwhile waits for up to one round.
    ///
    /// The first probe of a process loads the crate's kernel, which waits for the work on the device at that moment.
    ///
    /// It does **not** detect work at other times, work that ends within 25 µs, or use of memory bandwidth, caches or
    /// copy engines only, and it cannot find out whose work it was. Work that is put into the context's own streams during
    /// the probe counts as other work.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn probe(&self) -> Result<ContextProbe> {
        let _allowed = self.device().driver().beside_captures();
        if self.is_working()? {
            return Ok(ContextProbe::InUse);
        }
        let filler = Filler::new(self, self.sm_count())?;
        let (mut rounds, mut late, mut longest_delay) = (0, 0, Duration::ZERO);
        while rounds < ROUNDS && late < LATE_ROUNDS {
            let delay = filler.round(ROUND)?;
            let is_first = rounds == 0;
            rounds += 1;
            if delay > if is_first { FIRST_TOLERANCE } else { TOLERANCE } {
                late += 1;
            } else if is_first {
                continue;
            }
            longest_delay = longest_delay.max(delay);
        }
        Ok(if late == 0 {
            ContextProbe::Undisturbed {
                rounds,
                longest_delay,
            }
        } else {
            ContextProbe::Disturbed {
                rounds,
                late,
                longest_delay,
            }
        })
    }
}

/// Returns whether blocks that fill each of the contexts were all resident at once. Each context is given with the
/// number of SMs that it runs on.
///
/// `true` proves that no two contexts share an SM, because an SM holds only a fixed number of these blocks. `false`
/// does not prove the contrary, since other work may be on the SMs.
pub(crate) fn fit_together(contexts: &[(&GreenContext, u32)]) -> Result<bool> {
    let Some((first, _)) = contexts.first() else {
        return Ok(true);
    };
    let fillers: Vec<Filler> = contexts
        .iter()
        .map(|(context, sms)| Filler::new(context, *sms))
        .collect::<Result<_>>()?;
    for filler in &fillers {
        filler.round(Duration::ZERO)?;
    }
    let stay = TOGETHER + TOGETHER_PER_CONTEXT * contexts.len() as u32;
    let origin = Event::timed(first.device())?;
    for _ in 0..TRIES {
        for (index, filler) in fillers.iter().enumerate() {
            if index == 0 {
                filler.record(&origin)?;
            }
            filler.launch(stay)?;
        }
        let (mut first_start, mut last_end) = (Duration::MAX, Duration::ZERO);
        for filler in &fillers {
            let (start, end) = filler.wait_since(&origin)?;
            first_start = first_start.min(start);
            last_end = last_end.max(end);
        }
        // The last block started at `last_end - stay` or before, and no block ended before `first_start + stay`.
        if last_end.saturating_sub(first_start) < 2 * stay {
            return Ok(true);
        }
    }
    Ok(false)
}

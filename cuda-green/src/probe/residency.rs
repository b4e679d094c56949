//! The time in which blocks that fill some contexts were certainly all resident, on a clock that all processes share.

use std::{io, time::Duration};

use super::filler::Filler;
use crate::{error::Result, partition::GreenContext, sharing_error::SharingError};

/// Contexts that can be filled at a word.
pub(crate) struct Residency {
    fillers: Vec<Filler>,
}

impl Residency {
    /// Prepares to fill contexts: what is loaded or made at a first launch is there afterwards.
    pub(crate) fn of(contexts: &[GreenContext]) -> Result<Self> {
        let fillers = contexts
            .iter()
            .map(|context| Filler::new(context, context.sm_count()))
            .collect::<Result<Vec<_>>>()?;
        for filler in &fillers {
            filler.round(Duration::ZERO)?;
        }
        Ok(Self { fillers })
    }

    /// Fills all contexts at once, with blocks that stay for a time. Returns from when until when all blocks were resident, since the
    /// system's start; none where there may be no such moment.
    ///
    /// The last block began no later than `stay` before the end that the host saw, and no block ended earlier than `stay` after the
    /// host began. So the interval needs no clock of the device.
    pub(crate) fn fill(&self, stay: Duration) -> Result<Option<(Duration, Duration)>> {
        let begun = now()?;
        for filler in &self.fillers {
            filler.launch(stay)?;
        }
        for filler in &self.fillers {
            filler.wait()?;
        }
        let ended = now()?;
        let from = ended.saturating_sub(stay);
        let until = begun + stay;
        Ok((from < until).then_some((from, until)))
    }
}

/// Returns the time since the system's start.
fn now() -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the output is valid.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) } != 0 {
        return Err(SharingError::Io {
            what: "reading",
            path: "CLOCK_MONOTONIC".into(),
            error: io::Error::last_os_error(),
        }
        .into());
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

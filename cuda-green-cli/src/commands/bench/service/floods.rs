//! The work beside the requests.
//!
//! A flood has at most [`OUTSTANDING`] pieces of work on the way, so that its queue is never long: what a request waits
//! for is what runs, and not what was queued before it.

mod bulk;
mod gpu;
mod training;

use std::{thread, time::Duration};

pub use bulk::{BulkFlood, THREADS};
pub use gpu::{GpuFlood, Sources};
use serde::{Deserialize, Serialize};

pub use crate::commands::bench::progress::Progress;
use crate::commands::bench::progress::StopAtEnd;

/// The most pieces of work of a flood on the way.
pub const OUTSTANDING: usize = 4;

/// A kind of background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloodKind {
    /// Matrix products whose blocks hold an SM for long.
    Matrix,
    /// Copies within the device's memory.
    Copies,
    /// Steps like those of training a model.
    Training,
    /// The service's own bulk lane.
    Bulk,
    /// Launches of one empty block.
    Tiny,
}

impl FloodKind {
    pub const ALL: [Self; 5] = [
        Self::Matrix,
        Self::Copies,
        Self::Training,
        Self::Bulk,
        Self::Tiny,
    ];

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Matrix => "matrix products",
            Self::Copies => "memory copies",
            Self::Training => "training steps",
            Self::Bulk => "bulk embedding",
            Self::Tiny => "tiny launches",
        }
    }

    /// Returns what is counted each second.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Matrix => "products/s",
            Self::Copies => "copies/s",
            Self::Training => "steps/s",
            Self::Bulk => "texts/s",
            Self::Tiny => "launches/s",
        }
    }
}

/// A flood that is ready to run.
pub enum Flood<'a> {
    Gpu(&'a GpuFlood),
    Bulk(&'a BulkFlood<'a>),
}

impl Flood<'_> {
    fn threads(&self) -> usize {
        match self {
            Self::Gpu(_) => 1,
            Self::Bulk(flood) => flood.threads,
        }
    }

    fn run(&self, thread: usize, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::Gpu(flood) => flood.run(progress),
            Self::Bulk(flood) => flood.run(thread, progress),
        }
    }

    /// Calls `action` while the flood runs, after a time in which the flood reaches its pace and the GPU its clock.
    pub fn beside<T>(
        &self,
        settle: Duration,
        action: impl FnOnce(&Progress) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let progress = &Progress::default();
        thread::scope(|scope| {
            // After a panic as well: the scope waits for the threads.
            let stop = StopAtEnd::of(progress);
            let running: Vec<_> = (0..self.threads())
                .map(|thread| {
                    let run = move || self.run(thread, progress);
                    thread::Builder::new().spawn_scoped(scope, run)
                })
                .collect();
            thread::sleep(settle);
            let done = action(progress);
            drop(stop);
            for thread in running {
                let ended = thread?.join();
                ended.map_err(|_| anyhow::anyhow!("a flood's thread panicked"))??;
            }
            done
        })
    }
}

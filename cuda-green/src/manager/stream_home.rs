//! Containment: which streams of a process are in a partition, and which run on everyone's SMs.

use std::{fmt::Debug, sync::Arc};

use cuda_green_sys::{CUstream, CUstream_flags};

use super::{PartitionMode, SmPartitionManager};
use crate::error::{Error, Result};

/// Where the work of a stream runs: see [`SmPartitionManager::stream_home`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamHome<Id> {
    /// On the SMs that this name has now.
    Partition(Id),
    /// On SMs that this name had before a rebalance, some of which others may have now.
    Retired(Id),
    /// In a green context that this manager did not make, on SMs that it knows nothing of.
    ForeignPartition,
    /// In no green context, so on all SMs, those of every partition too.
    WholeDevice,
}

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// Tells where the work of a stream runs, whoever made it.
    ///
    /// One stream that is left in the primary context undoes the isolation of all partitions, as its work
    /// runs on all SMs: on an H200 a request took 0.25 ms at the 99th percentile beside a flood in another
    /// partition, and 14.3 ms beside the same flood in the primary context (`evidence/isolation.json`). Default
    /// streams are of whatever context is current, which is the primary one unless something else is
    /// done. To keep foreign code out of the partitions that matter:
    ///
    /// - Give it a partition of its own, such as the quad's `Reserved`, which has what is left of the device.
    /// - Where a library takes a stream, give it [`Stream::raw`](crate::Stream::raw) of a stream there;
    ///   where it takes a context, [`GreenContext::raw_context`](crate::GreenContext::raw_context).
    /// - Where it uses what is current, call [`set_current`](Self::set_current) at the beginning of each of
    ///   its threads, or [`activate`](Self::activate) around each call. Its default streams are in the
    ///   partition then, and order nothing: see [`GreenContext::activate`](crate::GreenContext::activate). What
    ///   makes the primary context current by itself, as `cudaSetDevice` does, escapes.
    /// - Ask for its streams here, or with [`check_streams`](Self::check_streams), and let
    ///   [`probe`](Self::probe) look for work that nobody listed.
    ///
    /// No partition isolates the bandwidth of memory: a memory-bound request beside a memory-bound flood in
    /// another partition took 1.9 times as long (H200).
    ///
    /// In single-context mode every stream is of the [`WholeDevice`](StreamHome::WholeDevice).
    ///
    /// # Errors
    /// [`Error::Driver`], also for a default stream where nothing is current.
    ///
    /// # Safety
    /// The stream is live, and of this manager's driver; null and the other names of default streams are.
    #[doc(alias = "cuStreamGetGreenCtx")]
    pub unsafe fn stream_home(&self, stream: CUstream) -> Result<StreamHome<Id>> {
        if self.mode != PartitionMode::Partitioned {
            return Ok(StreamHome::WholeDevice);
        }
        let (driver, mut green) = (self.device.driver(), std::ptr::null_mut());
        // SAFETY: the caller vouches for the stream; the output is valid for the one handle written.
        unsafe { driver.cuStreamGetGreenCtx(stream, &mut green) }?;
        if green.is_null() {
            return Ok(StreamHome::WholeDevice);
        }
        let home = |entry: &super::Entry<Id>| {
            let mut generations = entry.generations.iter().enumerate();
            let (index, _) = generations.find(|(_, made)| made.context.is_made_of(green))?;
            Some(if index == entry.current {
                StreamHome::Partition(Arc::clone(&entry.id))
            } else {
                StreamHome::Retired(Arc::clone(&entry.id))
            })
        };
        let found = self.names.read(|entries| entries.iter().find_map(home));
        Ok(match found {
            Some(StreamHome::Partition(id)) => StreamHome::Partition((*id).clone()),
            Some(StreamHome::Retired(id)) => StreamHome::Retired((*id).clone()),
            _ => StreamHome::ForeignPartition,
        })
    }

    /// Checks that all of these streams, each with a name for people, are in partitions of this manager.
    ///
    /// It logs a warning for a blocking stream in a partition (`cuStreamCreate` with flags 0): there, it and the
    /// default stream do not wait for each other, which a program may rest on.
    ///
    /// # Errors
    /// [`Error::OutsidePartitions`], which names those that are not; as [`stream_home`](Self::stream_home).
    ///
    /// # Safety
    /// As [`stream_home`](Self::stream_home), for each of them.
    pub unsafe fn check_streams(&self, streams: &[(&str, CUstream)]) -> Result<()> {
        let mut outside = Vec::new();
        for (name, stream) in streams {
            // SAFETY: the caller's promise is the one asked for.
            match unsafe { self.stream_home(*stream)? } {
                StreamHome::Partition(_) | StreamHome::Retired(_) => {
                    // SAFETY: as above.
                    if unsafe { self.is_blocking(*stream)? } {
                        log::warn!(
                            "the stream {name} is a blocking one in a partition, where it and the default stream do not wait for each other; order them by events"
                        );
                    }
                }
                StreamHome::ForeignPartition => {
                    outside.push(format!("{name} (a foreign partition)"))
                }
                StreamHome::WholeDevice => outside.push(format!("{name} (on all SMs)")),
            }
        }
        if outside.is_empty() {
            Ok(())
        } else {
            Err(Error::OutsidePartitions { streams: outside })
        }
    }

    /// Whether a stream was made to wait for the default stream, and that for it. The default streams were not made.
    ///
    /// # Safety
    /// As [`stream_home`](Self::stream_home).
    unsafe fn is_blocking(&self, stream: CUstream) -> Result<bool> {
        /// The default stream's other names: `CU_STREAM_LEGACY`, `CU_STREAM_PER_THREAD`.
        const DEFAULT_STREAMS: usize = 2;
        if stream as usize <= DEFAULT_STREAMS {
            return Ok(false);
        }
        let (driver, mut flags) = (self.device.driver(), 0);
        // SAFETY: the caller vouches for the stream; the output is valid for the one number written.
        unsafe { driver.cuStreamGetFlags(stream, &mut flags) }?;
        Ok(flags & CUstream_flags::CU_STREAM_NON_BLOCKING.0 == 0)
    }
}

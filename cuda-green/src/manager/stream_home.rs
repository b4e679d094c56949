//! The home of a stream: the partition whose SMs its work runs on, or the whole device.

use std::fmt::Debug;

use cuda_green_sys::{CUstream, CUstream_flags};

use super::{mode::PartitionMode, state::ManagerState};
use crate::{
    error::{Error, Result},
    partition::GreenContext,
};

/// The SMs on which the work of a stream runs: see
/// [`SmPartitionManager::stream_home`](crate::SmPartitionManager::stream_home).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamHome<Id> {
    /// On the SMs that this name has now.
    Partition(Id),
    /// On SMs that this name had before a rebalance, some of which other names may have now.
    Retired(Id),
    /// In a green context that this manager did not make, on SMs that it does not know.
    ForeignPartition,
    /// In no green context, so on all SMs, those of every partition too.
    WholeDevice,
}

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Returns where the work of a stream runs.
    ///
    /// # Safety
    /// The stream is live, and of this manager's driver; null and the other names of default streams are.
    pub(super) unsafe fn stream_home(&self, stream: CUstream) -> Result<StreamHome<Id>> {
        if self.mode != PartitionMode::Partitioned {
            return Ok(StreamHome::WholeDevice);
        }
        let (driver, mut green) = (self.device.driver(), std::ptr::null_mut());
        // SAFETY: the caller vouches for the stream; the output is valid for the one handle written.
        unsafe { driver.cuStreamGetGreenCtx(stream, &mut green) }?;
        if green.is_null() {
            return Ok(StreamHome::WholeDevice);
        }
        Ok(match self.registry.owner(green, GreenContext::is_made_of) {
            Some((id, true)) => StreamHome::Partition((*id).clone()),
            Some((id, false)) => StreamHome::Retired((*id).clone()),
            None => StreamHome::ForeignPartition,
        })
    }

    /// Checks that all of these streams are in partitions of this manager.
    ///
    /// # Safety
    /// As [`stream_home`](Self::stream_home), for each of them.
    pub(super) unsafe fn check_streams(&self, streams: &[(&str, CUstream)]) -> Result<()> {
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

    /// Returns whether a stream was made to wait for the default stream, and the default stream for it; false for
    /// default streams, which no program creates.
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

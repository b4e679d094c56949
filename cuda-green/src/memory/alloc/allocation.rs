//! An allocation: memory with its kind, and the fences of the streams that may still use it.

use super::{fence::Fence, size_class::class_bytes};
use crate::{error::Result, stream::Stream};

/// The kind of an allocation, which decides where its memory goes when it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllocationKind {
    /// A block of a slab.
    Block { class: usize },
    /// A whole allocation of the driver's pool.
    Large { len: u64 },
    /// A whole allocation from outside the driver's pool, by `cuMemAlloc`.
    Plain { len: u64 },
}

impl AllocationKind {
    /// Returns its size in bytes, which may be more than was asked for.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Block { class } => class_bytes(class),
            Self::Large { len } | Self::Plain { len } => len,
        }
    }
}

/// Memory that a buffer owns, or that a buffer owned and streams may still use.
pub(crate) struct Allocation {
    pub(crate) address: u64,
    pub(crate) kind: AllocationKind,
    /// Work in another stream must wait for them first.
    pub(crate) fences: Vec<Fence>,
}

impl Allocation {
    /// Creates an allocation that no stream uses.
    #[inline]
    pub(crate) fn unfenced(address: u64, kind: AllocationKind) -> Self {
        let fences = Vec::new();
        Self {
            address,
            kind,
            fences,
        }
    }

    /// Waits until no stream uses it any more.
    pub(crate) fn wait(&self) -> Result<()> {
        self.fences.iter().try_for_each(Fence::wait)
    }

    /// Returns whether no stream uses it any more.
    pub(crate) fn is_done(&self) -> Result<bool> {
        for fence in &self.fences {
            if !fence.is_done()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether only this stream uses it. Further work in that stream comes after those uses anyway.
    pub(crate) fn is_free_for(&self, stream: &Stream) -> bool {
        self.fences.iter().all(|fence| fence.is_of(stream))
    }
}

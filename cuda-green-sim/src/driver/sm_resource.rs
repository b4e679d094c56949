//! The SMs behind a `CUdevResource`, and their provenance.

use crate::sms::SmSet;

/// The provenance of SMs, which decides how they may be split.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Asked from the device or a context: may be split.
    Query,
    /// A group of the split of this handle: not to be split again.
    Group(u64),
    /// The remainder of a split by count.
    Remainder(u64),
    /// The remainder of a structured split, which may be split in the structured way (13.1 header).
    StructuredRemainder(u64),
}

impl Origin {
    pub(super) fn split(self) -> Option<u64> {
        match self {
            Self::Query => None,
            Self::Group(split) | Self::Remainder(split) | Self::StructuredRemainder(split) => {
                Some(split)
            }
        }
    }
}

/// The SMs behind one `CUdevResource`. The client's struct carries only the id of this one, so nothing that the
/// client writes into the struct is trusted.
#[derive(Clone)]
pub(super) struct Resource {
    pub(super) device: usize,
    pub(super) sms: SmSet,
    /// The number that the driver reports: larger than the true one after a merge of overlapping resources.
    pub(super) reported: u32,
    /// SMs that are co-scheduled.
    pub(super) alignment: u32,
    pub(super) flags: u32,
    pub(super) origin: Origin,
    /// The green context whose own resource this is or was split from; `None` for the device.
    pub(super) root: Option<u64>,
}

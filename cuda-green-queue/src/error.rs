//! The crate's error type.

use std::fmt;

/// A result whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a queue. `Debug` says what `Display` says, so that `unwrap` and a `main` that returns it print that.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number that the layout of a queue cannot have.
    #[error("{name} {value}: {reason}")]
    InvalidLayout {
        /// The number's name in the builder.
        name: &'static str,
        /// The number.
        value: u64,
        /// Why it cannot be, and what would.
        reason: String,
    },
    /// A queue that needs more memory than its segment has.
    #[error("the queue needs a segment of {needed} bytes, and it has {segment}: {would_fit}")]
    SegmentTooSmall {
        /// The bytes that the queue needs.
        needed: u64,
        /// The bytes of the segment.
        segment: u64,
        /// A smaller layout that would fit.
        would_fit: String,
    },
    /// A handler that a queue cannot have.
    #[error("the handler for {task}: {reason}")]
    InvalidHandler {
        /// The task's type.
        task: &'static str,
        /// Why it cannot be.
        reason: String,
    },
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
    /// The resident kernel of an earlier launch has not returned.
    #[error("a resident kernel of the queue runs: let it leave, and wait for it")]
    Resident,
    /// A launch of a resident kernel with too few blocks, or with blocks of too few threads.
    #[error(
        "a resident kernel for {lanes} lanes needs as many blocks of 32 threads or more, and this launch has {blocks} of {threads}"
    )]
    InvalidLaunch {
        /// The queue's lanes: each needs a block.
        lanes: u32,
        /// The blocks of the launch.
        blocks: u64,
        /// The threads of each block.
        threads: u64,
    },
    /// The operating system gave no thread.
    #[error("no thread for the queue: {0}")]
    Thread(#[source] std::io::Error),
    /// An error of the library below.
    #[error(transparent)]
    CudaGreen(#[from] cuda_green::Error),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

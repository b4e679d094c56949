//! Streams: queues of work in a context.

mod launch;
mod limits;
mod options;
mod queue;

pub use options::{StreamOptions, StreamPriority};
pub use queue::Stream;

//! Graphs: work that is captured once from a stream and launched as a whole, many times.
//!
//! A kernel in a graph runs on the SMs of the stream that it was captured in, in whatever stream the graph is
//! launched (measured on an H200, driver 580, CUDA 13.0). So a graph has to be captured once for each partition,
//! which [`PartitionGraph`](crate::PartitionGraph) does automatically.

mod capture;
mod captured;
mod exec;
mod resources;

pub use capture::{Capture, CaptureMode};
pub use captured::Graph;
pub use exec::GraphExec;

//! The embedding service: two lanes, each with a queue, an encoder and a thread, over one copy of the weights.
//!
//! A queue cannot keep a search from waiting behind bulk work, since a running batch is not cut short; partitions can.
//! So the lanes share nothing but the weights and the news that the GPU has failed: each has its own lock, thread and
//! stream.
//!
//! # The hand-offs of a request
//!
//! A hand-off from one thread to another costs 5 to 50 µs. A request has as few as there can be:
//!
//! - The calling thread tokenises.
//! - If the encoder has room, the calling thread submits the batch too. Otherwise the request waits in the queue, and
//!   the thread that sees a batch end submits it with all others that wait.
//! - A thread that blocks in `wait` waits for the GPU itself, unless another one does, and then serves all requests of
//!   the batch. So a lone blocking request has no hand-off at all; beside others it has one, from the thread that waits
//!   for the GPU to its own.
//! - A task must not block. When a future is first polled, the lane's thread is woken to wait for the GPU, while the GPU
//!   computes; later it wakes the task. So an awaited request has one hand-off that the GPU's work hides, and one that
//!   it does not.
//!
//! When a batch ends, the next one is submitted before the vectors are delivered.
//!
//! # Several GPUs
//!
//! A lane has a *seat* on each GPU: an encoder with the batches that were submitted to it. All seats take from the lane's
//! one queue, each as it has room. With several, each has a thread that always waits for its batches, so that no GPU's
//! batch is waited for in front of another's; a thread that blocks in `wait` may still be the one that waits for its own
//! request's GPU. A seat that fails the same batch twice, or three in a row, is retired, and its batches go to others.
//!
//! # Elastic lanes
//!
//! Where the lanes are elastic, a thread gives the bulk lane the interactive lane's SMs while nobody asks, and takes them
//! back when a query comes. The query does not wait for that: it runs at once, on the SMs that its lane keeps. The bulk
//! lane submits nothing more, the batches on the way end, the SMs go back, and bulk work goes on. So in the time of the
//! bulk lane's [submitted](EmbedderBuilder::submitted) batches on the whole GPU, a query has fewer SMs; and one that is
//! submitted in the very moment of a rebalance waits for the host's part of that.
//!
//! # Locks
//!
//! A lane has one lock, on its state; each request has one, on its answer. The order is: lane, then request, and a lane's
//! holder asks a request only whether it was given up. No thread holds two lanes' locks, and none any lock while it calls
//! the tokeniser, the encoder or a waker. The elastic lanes have a lock of their own, held for a moment, and with it no
//! other.

mod batch;
mod builder;
mod elastic;
mod embedder;
mod engine;
mod future;
mod lane;
mod lane_handle;
mod observe;
mod request;
mod seat;
mod status;

pub use builder::EmbedderBuilder;
pub use elastic::{ElasticOptions, ElasticStatus, LaneLayout, LaneLayouts};
pub use embedder::Embedder;
pub use future::{EmbedBatchFuture, EmbedFuture};
pub use lane_handle::LaneHandle;
pub(crate) use request::is_waking;
pub use status::{EmbedderStatus, GpuStatus, Lane, LaneStatus, ReplicaStatus, ServiceMode};

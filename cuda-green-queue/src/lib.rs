//! Tasks that GPU kernels submit to the CPU.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod completion;
mod contain;
mod control;
mod counters;
mod device;
mod device_side;
mod error;
mod events;
#[cfg(feature = "metrics")]
mod exporter;
mod future;
mod histogram;
mod host_rings;
mod idle;
mod jobs;
mod kernel_queue;
mod layout;
mod numa;
mod poller;
mod pool;
mod protocol;
mod queue;
mod queues;
mod registry;
mod resident;
mod schedule;
mod segment;
#[cfg(feature = "test-utils")]
pub mod simulated;
mod sleepers;
mod stats;
mod submitter;
mod task;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
mod watcher;
mod workers;

pub use builder::TaskQueueBuilder;
pub use device::HEADER;
pub use error::{Error, Result};
#[cfg(feature = "metrics")]
pub use exporter::QueueExporter;
pub use future::TaskFuture;
pub use histogram::Histogram;
pub use idle::IdlePolicy;
pub use kernel_queue::KernelQueue;
pub use layout::{DeviceInbox, DeviceQueue};
pub use numa::Placement;
pub use queue::TaskQueue;
pub use queues::TaskQueues;
pub use resident::{InboxBuilder, ResidentFuture, ResidentQueue};
pub use stats::{DeviceStats, MethodStats, PollerStats, QueueStats, RingStats, SubmissionStats};
pub use submitter::Submitter;
pub use task::{HostTask, SubmitError, Task, TaskError, TaskFailure};

// What users may rely on: values and handles go from thread to thread, and errors can be put into any box.
const _: () = {
    const fn send_sync<T: Send + Sync>() {}
    send_sync::<TaskQueue>();
    send_sync::<TaskQueues>();
    send_sync::<Submitter>();
    send_sync::<QueueStats>();
    send_sync::<TaskFuture<u64>>();
    send_sync::<ResidentQueue>();
    send_sync::<ResidentFuture<u64>>();
    send_sync::<KernelQueue>();
    const fn error<T: std::error::Error + Send + Sync + 'static>() {}
    error::<Error>();
    error::<TaskError>();
    error::<SubmitError<u64>>();
};

//! Guaranteed shares of an NVIDIA GPU: disjoint partitions of its SMs, through CUDA green contexts.
//!
//! Start with these five:
//!
//! - [`SmPartitionManager`] splits a device into named partitions, resizes them while work runs, and reports on them.
//! - [`GreenContext`] is one partition: it creates streams and has a memory pool.
//! - [`Stream`] takes the work: [`launch`](Stream::launch) runs a kernel on the partition's SMs.
//! - [`Module`] loads PTX or a cubin, whose [`Kernel`]s streams launch.
//! - [`GpuMemoryPool`] gives [`GpuBuffer`]s under a limit that is exact to the byte.
//!
//! | for | see |
//! |---|---|
//! | drivers and devices | [`Driver`], [`CudaDevice`], [`Capabilities`], [`Error`] |
//! | sizes of partitions | [`planner::PartitionRequest`], [`planner::Plan`], [`GreenContextConfig`] |
//! | splits by hand | [`SmResource`], [`SmSplit`], [`WorkqueueResource`] |
//! | streams that follow a name through rebalances | [`PartitionStream`], [`PartitionGraph`], [`HandOff`] |
//! | order and ends of work | [`Event`], [`Completion`], [`Graph`] |
//! | libraries that use the current context | [`ContextGuard`], [`guide::foreign_libraries`] |
//! | memory | [`MemoryBudget`], [`PinnedBuffer`], [`TypedBuffer`], [`ModelSlots`], [`MemoryReport`] |
//! | checks | [`Verification`], [`StreamHome`], [`Probe`] |
#![doc = ""]
#![doc = include_str!("../README.md")]
// On docs.rs, what needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Tests under loom leave the manager out, since loom's `Arc` differs from that of std, which programs see.
#![cfg_attr(all(test, loom), allow(unused))]

mod capabilities;
mod completion;
mod context;
mod device;
mod driver;
mod error;
mod event;
mod events;
mod graph;
mod guard;
pub mod guide;
mod image;
pub mod kernels;
mod launch;
#[cfg(not(all(test, loom)))]
mod manager;
mod memory;
mod models;
mod module;
mod names;
mod once;
mod partition;
pub mod planner;
mod probe;
mod report;
mod resource;
mod sharing;
mod sharing_error;
mod size;
mod stream;
mod sync;

pub use capabilities::{Capabilities, Feature, Granularity, GranularitySource};
pub use completion::Completion;
pub use context::CloseError;
pub use cuda_green_sys::{self as sys, CUresult, CudaVersion, DRIVER_VARIABLE, DriverSpec};
pub use device::{ContextPriority, CudaDevice, CudaDeviceProperties};
pub use driver::Driver;
pub use error::{Error, Result};
pub use event::Event;
pub use graph::{Capture, CaptureMode, Graph, GraphExec};
pub use guard::ContextGuard;
pub use image::ImageKind;
pub use launch::{KernelArg, LaunchConfig};
#[cfg(all(feature = "metrics", not(all(test, loom))))]
pub use manager::PartitionExporter;
#[cfg(not(all(test, loom)))]
pub use manager::serve_separation_test;
#[cfg(not(all(test, loom)))]
pub use manager::{
    AllocationStatus, ContextId, ContextKey, ContextStatus, GREEN_CONTEXT_BYTES, Miscount, Overlap,
    PartitionGraph, PartitionMode, Probe, RebalanceHint, SharedPlan, SmPartitionManager,
    StreamHome, Verification, VerificationMethod,
};
pub use memory::{
    FreeError, GpuBuffer, GpuMemoryPool, Latencies, MemoryBudget, MemoryBuffer, MemoryPool,
    MemoryPressure, PinnedBuffer, PoolMetrics, PressureChange, TypedBuffer,
};
#[cfg(feature = "test-utils")]
pub use memory::{MockGpuBuffer, MockGpuMemoryPool};
pub use models::{EvictionPolicy, ModelLease, ModelNeeds, ModelSlots, SlotStatus, SlotsStatus};
pub use module::{Kernel, Module};
#[cfg(not(all(test, loom)))]
pub use names::{HandOff, PartitionStream};
pub use partition::{ContextPolicy, GreenContext, GreenContextConfig, WorkqueueIsolation};
pub use probe::ContextProbe;
#[cfg(feature = "metrics")]
pub use report::MemoryExporter;
pub use report::{MemoryReport, MemoryRow};
pub use resource::{
    PerGroup, SmCount, SmParts, SmResource, SmSizes, SmSplit, WorkqueueResource, WorkqueueScope,
};
pub use sharing::{
    ChangedName, ComputeMode, DeviceUuid, EndStep, EndedHolder, MpsDaemon, MpsStatus, NameHolder,
    PlanChange, PlanMps, Separation, SharedDevice, SharedName, SharedStatus,
};
#[cfg(feature = "test-utils")]
#[doc(hidden)]
pub use sharing::{SharingStep, on_sharing_step};
pub use sharing_error::{FolderProblem, NotLeft, NotLeftReason, SharingError};
pub use stream::{Stream, StreamOptions, StreamPriority};

/// The simulator behind the feature `test-utils`.
#[cfg(feature = "test-utils")]
pub use cuda_green_sim as sim;

// What users may rely on: values and handles go from thread to thread, a recording stays where it is made,
// and errors can be put into any box. A guard is not `Send`, which its documentation tests.
#[cfg(not(all(test, loom)))]
const _: () = {
    const fn send_sync<T: Send + Sync>() {}
    send_sync::<Driver>();
    send_sync::<CudaDevice>();
    send_sync::<SmResource>();
    send_sync::<WorkqueueResource>();
    send_sync::<GreenContext>();
    send_sync::<SmPartitionManager>();
    send_sync::<AllocationStatus>();
    send_sync::<planner::Plan>();
    send_sync::<Stream>();
    send_sync::<PartitionStream>();
    send_sync::<Event>();
    send_sync::<Completion>();
    send_sync::<GraphExec>();
    send_sync::<PartitionGraph>();
    send_sync::<Module>();
    send_sync::<Kernel>();
    send_sync::<GpuMemoryPool>();
    send_sync::<GpuBuffer>();
    send_sync::<TypedBuffer<f32>>();
    send_sync::<PinnedBuffer<f32>>();
    send_sync::<MemoryBudget>();
    send_sync::<MemoryReport>();
    send_sync::<ModelSlots<GpuBuffer>>();
    send_sync::<ModelLease<GpuBuffer>>();
    const fn send<T: Send>() {}
    send::<Graph>();
    const fn error<T: std::error::Error + Send + Sync + 'static>() {}
    error::<Error>();
    error::<CloseError>();
};

//! One GPU: its properties, and its primary context, in which everything else is made.

mod claim;
mod copies;
mod copy_streams;
mod cuda_device;
mod deferred_destruction;
mod facts;
mod load;
mod primary;
mod priority;
mod raw_module;

pub use cuda_device::{CudaDevice, CudaDeviceProperties};
pub use priority::ContextPriority;

pub(crate) use claim::{Claim, Lease};
pub(crate) use deferred_destruction::retry_ends;
pub(crate) use raw_module::RawModule;

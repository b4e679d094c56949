//! The driver's objects of a partition: green contexts, their handles, and the rule of which thread may have one
//! current.

mod config;
mod end;
mod followers;
mod green_context;
mod handles;
mod live_streams;
mod memory_slot;
mod resources;
mod thread_contexts;
#[cfg(all(test, loom))]
mod thread_contexts_loom;
mod workqueues;

pub use config::{ContextPolicy, GreenContextConfig};
pub use green_context::GreenContext;
pub use workqueues::WorkqueueIsolation;

#[cfg(all(test, loom))]
pub(crate) use followers::Followers;
pub(crate) use followers::{DropLater, Follower};
pub(crate) use green_context::{ContextInner, ContextSms};
pub(crate) use handles::{GreenHandles, Sibling};
pub(crate) use memory_slot::MemorySlot;
pub(crate) use workqueues::{Workqueues, balanced};

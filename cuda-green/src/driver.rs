//! A loaded driver: its origin, its version, and the way from each of its calls to a typed error.

mod calls;
mod capture_mode;
mod inbox;
mod loaded;
mod resources;
mod waiter;

pub use loaded::Driver;

pub(crate) use calls::{log_failure, name};
pub(crate) use inbox::{Inbox, catch_panic, spawn_detached};
pub(crate) use resources::{ResourceOwner, query_resource, reported_granularity, sm_fields};
pub(crate) use waiter::Pending;

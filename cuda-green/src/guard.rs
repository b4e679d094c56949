//! Guards that make a context current to the calling thread and restore the previous one on every path.

mod base;
mod context_guard;
mod entered;

pub use context_guard::ContextGuard;

pub(crate) use base::{set_current, unset_current};

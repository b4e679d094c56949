//! Accounting in bytes: a tree of limits, the accounts that draw on it, and the pressure on each limit.

pub(super) mod account;
#[cfg(all(test, loom))]
mod account_loom;
#[cfg(test)]
mod account_tests;
pub(super) mod limit_tree;
pub(super) mod pressure;

pub use pressure::{MemoryPressure, PressureChange};

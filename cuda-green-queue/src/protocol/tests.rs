//! Tests of the protocol: against a sequential model, on threads, and in every interleaving of a few.
//!
//! `cargo xtask mutants` breaks the protocol line by line and names for each line the test that finds it.

#[cfg(not(miri))]
mod checked;
mod inbox;
mod layouts;
#[cfg(not(loom))]
mod on_threads;
#[cfg(not(miri))]
mod scenarios;
mod single;
#[cfg(loom)]
mod under_loom;
#[cfg(not(any(loom, miri)))]
mod under_shuttle;

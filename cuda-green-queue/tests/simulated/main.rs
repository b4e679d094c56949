//! Kernels of the simulator that submit tasks to the CPU, take tasks from it, and from each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // these are tests
#![allow(missing_docs)]

mod between_kernels;
mod calls;
mod ends;
mod fixture;
mod logged;
mod resident;

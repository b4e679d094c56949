//! Kernels of the simulator that submit tasks to the CPU, take tasks from it, and from each other.

mod calls;
mod fixture;

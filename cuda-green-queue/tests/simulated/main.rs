//! Kernels of the simulator that submit tasks to the CPU, take tasks from it, and from each other.

mod between_kernels;
mod calls;
mod fixture;
mod resident;

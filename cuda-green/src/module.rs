//! Modules of loaded code, and their kernels.

mod attributes;
mod limits;
mod loaded;

pub use loaded::{Kernel, Module};

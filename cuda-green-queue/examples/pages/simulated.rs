//! The walk's body for simulated drivers.

use cuda_green::sim::Sim;

pub fn register(_simulator: &Sim) {}

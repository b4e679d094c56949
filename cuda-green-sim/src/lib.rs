//! cuda-green-sim

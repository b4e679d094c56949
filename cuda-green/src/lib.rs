//! cuda-green

//! The table of entry points and fields by CUDA version.

//! The crate's own kernels, as PTX that every driver since 11.4 compiles for its GPU.
//!
//! They are public so that a program can put a known load on a partition and see on which SMs it runs.

/// The source of all kernels, for [`Module::load_ptx`](crate::Module::load_ptx).
pub const PTX: &str = include_str!("kernels/kernels.ptx");

/// Name of the kernel `(out: *mut u32, len: u32, spin_ns: u32)`, which adds 1 to `out[smid]` for each block, then keeps
/// the block on its SM for `spin_ns` nanoseconds. SMs with an id of `len` or more are not counted.
pub const SM_IDS: &str = "cuda_green_sm_ids";

/// Name of the kernel `(out: *mut f32, rounds: u32)`, of which each thread multiplies and adds `rounds` times in a
/// chain. `out` is an address that it never writes; 0 is allowed.
pub const BURN: &str = "cuda_green_burn";

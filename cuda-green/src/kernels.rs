//! The crate's own kernels, as PTX that every driver since 11.4 compiles for its GPU.
//!
//! They are public so that a program can put a known load on a partition, and see where it runs.

/// The source of all of them, for [`Module::load_ptx`](crate::Module::load_ptx).
pub const PTX: &str = include_str!("kernels/kernels.ptx");

/// The kernel `(out: *mut u32, len: u32, spin_ns: u32)`: adds 1 to `out[smid]` for each block, then keeps the
/// block on its SM for `spin_ns` nanoseconds. SMs with an id of `len` or more are not counted.
pub const SM_IDS: &str = "cuda_green_sm_ids";

/// The kernel `(out: *mut f32, rounds: u32)`: each thread multiplies and adds `rounds` times in a chain.
/// `out` is an address that it never comes to write; 0 will do.
pub const BURN: &str = "cuda_green_burn";

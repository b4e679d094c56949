//! The shape of a launch, and its arguments.

use std::ffi::c_void;

/// The shape of a launch.
///
/// ```
/// use cuda_green::LaunchConfig;
///
/// let lines = LaunchConfig::linear(512, 256);
/// let tiles = LaunchConfig::new([64, 8, 1], [16, 16, 1]).shared_bytes(16 << 10);
/// # let _ = (lines, tiles);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LaunchConfig {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

impl LaunchConfig {
    /// So many blocks, each of so many threads, both in x, y and z.
    pub const fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self {
            grid,
            block,
            shared_bytes: 0,
        }
    }

    /// So many blocks of so many threads, in one dimension.
    pub const fn linear(blocks: u32, threads: u32) -> Self {
        Self::new([blocks, 1, 1], [threads, 1, 1])
    }

    /// The same with so many bytes of dynamic shared memory for each block.
    #[must_use]
    pub const fn shared_bytes(self, shared_bytes: u32) -> Self {
        Self {
            shared_bytes,
            ..self
        }
    }
}

/// A value that a kernel can take as an argument.
///
/// # Safety
/// The pointer is valid, while `self` is borrowed, for reading a value of the size and alignment that the
/// kernel's parameter has.
pub unsafe trait KernelArg {
    /// Where the value lies.
    fn as_ptr(&self) -> *const c_void {
        std::ptr::from_ref(self).cast()
    }
}

macro_rules! kernel_args {
    ($($ty:ty),+) => {$(
        // SAFETY: a plain number has the size and alignment of the parameter of the same type.
        unsafe impl KernelArg for $ty {}
    )+};
}
kernel_args!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

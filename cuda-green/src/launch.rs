//! The configuration of a kernel launch, and its arguments.

use std::{ffi::c_void, fmt};

/// The configuration of a kernel launch: its grid, its blocks and their memory.
///
/// ```
/// use cuda_green::LaunchConfig;
///
/// let lines = LaunchConfig::linear(512, 256);
/// let tiles = LaunchConfig::new([64, 8, 1], [16, 16, 1]).shared_bytes(96 << 10);
/// let clusters = LaunchConfig::linear(512, 256).cluster([4, 1, 1]);
/// assert_eq!(
///     clusters.to_string(),
///     "grid 512×1×1, block 256×1×1, shared memory 0 bytes, cluster 4×1×1"
/// );
/// # let _ = (lines, tiles);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LaunchConfig {
    /// Number of blocks in x, y and z.
    pub grid: [u32; 3],
    /// Number of threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes. The first launch of a kernel with more than 48 KiB raises the limit
    /// that the driver keeps for the kernel.
    pub shared_bytes: u32,
    /// Number of blocks of a thread-block cluster in x, y and z; `None` for a launch without clusters.
    pub cluster: Option<[u32; 3]>,
    /// Whether all blocks are resident at once, so that they can wait for each other.
    pub cooperative: bool,
    /// Whether the kernel may start before the kernel in front of it in the stream has ended.
    pub programmatic_dependent: bool,
}

impl LaunchConfig {
    /// Makes a configuration of `grid` blocks, each of `block` threads, both in x, y and z.
    pub const fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self {
            grid,
            block,
            shared_bytes: 0,
            cluster: None,
            cooperative: false,
            programmatic_dependent: false,
        }
    }

    /// Makes a one-dimensional configuration of `blocks` blocks, each of `threads` threads.
    pub const fn linear(blocks: u32, threads: u32) -> Self {
        Self::new([blocks, 1, 1], [threads, 1, 1])
    }

    /// Sets the dynamic shared memory of each block, in bytes.
    #[must_use]
    pub const fn shared_bytes(self, shared_bytes: u32) -> Self {
        Self {
            shared_bytes,
            ..self
        }
    }

    /// Sets the number of blocks of a thread-block cluster in x, y and z, of which the grid must be a multiple. Needs
    /// compute capability 9.0 and CUDA 11.8. Clusters of up to 8 blocks are portable; larger ones, up to 16, run on
    /// some devices and partitions. [`Stream::max_cluster_size`](crate::Stream::max_cluster_size) and
    /// [`Stream::max_active_clusters`](crate::Stream::max_active_clusters) return what fits a partition.
    #[must_use]
    pub const fn cluster(self, blocks: [u32; 3]) -> Self {
        Self {
            cluster: Some(blocks),
            ..self
        }
    }

    /// Makes the launch cooperative: all its blocks are resident at once, or it is refused. Needs CUDA 11.6.
    /// [`Stream::max_cooperative_blocks`](crate::Stream::max_cooperative_blocks) returns how many blocks fit a
    /// partition.
    #[must_use]
    pub const fn cooperative(self) -> Self {
        Self {
            cooperative: true,
            ..self
        }
    }

    /// Lets the kernel start before the kernel in front of it in the stream has ended: as soon as all blocks of that
    /// kernel have executed `griddepcontrol.launch_dependents` or ended. Reads of what earlier work wrote come after
    /// `griddepcontrol.wait`, which waits for its end. Needs compute capability 9.0 and CUDA 11.8, within a captured
    /// graph 12.3.
    ///
    /// It hides the launch and what a kernel reads first. A graph of 32 dependent kernels of some 2 µs took 96 µs with
    /// it and 113 µs without (H200, driver 580, a partition of 32 SMs).
    #[doc(alias = "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION")]
    #[must_use]
    pub const fn programmatic_dependent(self) -> Self {
        Self {
            programmatic_dependent: true,
            ..self
        }
    }

    /// Returns whether the launch needs no launch attributes.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.cluster.is_none() && !self.cooperative && !self.programmatic_dependent
    }

    /// Returns the number of blocks of a cluster; 1 without clusters.
    #[inline]
    pub(crate) fn cluster_size(&self) -> u64 {
        self.cluster.map_or(1, product)
    }

    /// Returns the number of blocks of the grid.
    pub(crate) fn blocks(&self) -> u64 {
        product(self.grid)
    }

    /// Returns the number of threads of a block.
    pub(crate) fn threads(&self) -> u64 {
        product(self.block)
    }
}

fn product(sides: [u32; 3]) -> u64 {
    let sides = sides.into_iter().map(u64::from);
    sides.fold(1, u64::saturating_mul)
}

impl fmt::Display for LaunchConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = |[x, y, z]: [u32; 3]| format!("{x}×{y}×{z}");
        write!(
            f,
            "grid {}, block {}, shared memory {} bytes",
            sides(self.grid),
            sides(self.block),
            self.shared_bytes
        )?;
        if let Some(cluster) = self.cluster {
            write!(f, ", cluster {}", sides(cluster))?;
        }
        if self.cooperative {
            f.write_str(", cooperative")?;
        }
        if self.programmatic_dependent {
            f.write_str(", programmatic dependent")?;
        }
        Ok(())
    }
}

/// A value that can be passed to a kernel as an argument.
///
/// # Safety
/// While `self` is borrowed, the pointer is valid for reading a value of the size and alignment of the kernel's
/// parameter.
pub unsafe trait KernelArg {
    /// Returns a pointer to the value.
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

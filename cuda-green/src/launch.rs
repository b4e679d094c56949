//! The shape of a launch, and its arguments.

use std::{ffi::c_void, fmt};

/// The shape of a launch.
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
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes. Above 48 KiB, the first such launch of a kernel raises the limit
    /// that the driver keeps for it.
    pub shared_bytes: u32,
    /// Blocks of a thread-block cluster in x, y and z, if the launch is one in clusters.
    pub cluster: Option<[u32; 3]>,
    /// Whether all blocks are resident at once, so that they can wait for each other.
    pub cooperative: bool,
}

impl LaunchConfig {
    /// So many blocks, each of so many threads, both in x, y and z.
    pub const fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self {
            grid,
            block,
            shared_bytes: 0,
            cluster: None,
            cooperative: false,
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

    /// The same in thread-block clusters of so many blocks in x, y and z: the grid must be whole clusters. Needs
    /// compute capability 9.0 and CUDA 11.8. Up to 8 blocks are portable; more, up to 16, run on some devices and
    /// partitions. [`Stream::max_cluster_size`](crate::Stream::max_cluster_size) and
    /// [`Stream::max_active_clusters`](crate::Stream::max_active_clusters) tell what fits a partition.
    #[must_use]
    pub const fn cluster(self, blocks: [u32; 3]) -> Self {
        Self {
            cluster: Some(blocks),
            ..self
        }
    }

    /// The same as a cooperative launch, whose blocks are all resident at once, or which is refused. Needs CUDA
    /// 11.6. [`Stream::max_cooperative_blocks`](crate::Stream::max_cooperative_blocks) tells how many fit a
    /// partition.
    #[must_use]
    pub const fn cooperative(self) -> Self {
        Self {
            cooperative: true,
            ..self
        }
    }

    /// Whether nothing is asked for that needs attributes of the launch.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.cluster.is_none() && !self.cooperative
    }

    /// Blocks of a cluster; 1 without clusters.
    #[inline]
    pub(crate) fn cluster_size(&self) -> u64 {
        self.cluster.map_or(1, product)
    }

    pub(crate) fn blocks(&self) -> u64 {
        product(self.grid)
    }

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
        Ok(())
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

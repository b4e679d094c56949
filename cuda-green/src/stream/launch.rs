//! Kernel launches in a stream, and queries of what a launch can have in the stream's context.

use std::{
    ffi::{c_int, c_uint, c_void},
    ptr,
};

use cuda_green_sys::{
    CUfunction, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchConfig, CudaVersion,
};

use super::{limits, queue::Stream};
use crate::{
    error::{Error, Result},
    launch::{KernelArg, LaunchConfig},
    module::Kernel,
};

/// The first compute capability with thread-block clusters (NVIDIA's programming guide).
const CLUSTERS_SINCE: (u32, u32) = (9, 0);
/// The first CUDA version with launches in clusters, and with programmatic dependent launches (its header).
const CLUSTERS_SINCE_CUDA: CudaVersion = CudaVersion::new(11, 8);

impl Stream {
    /// Launches a kernel, in clusters or cooperatively if the configuration says so.
    ///
    /// ```no_run
    /// # fn main() -> cuda_green::Result<()> {
    /// # let (stream, kernel, buffer): (cuda_green::Stream, cuda_green::Kernel, cuda_green::GpuBuffer) = unimplemented!();
    /// use cuda_green::LaunchConfig;
    ///
    /// let length = 1024u32;
    /// // SAFETY: the kernel takes a pointer to that many floats and their number.
    /// unsafe { stream.launch(&kernel, &LaunchConfig::linear(4, 256), &[&buffer.address(), &length])? };
    /// stream.synchronize()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::LaunchRefused`] for a configuration that exceeds a limit of the device or the partition, with the
    /// limit if it is known; [`Error::InvalidArgument`] for clusters or a programmatic dependent launch on a device
    /// without them, [`Error::Unsupported`] on a driver without them; [`Error::ForeignDriver`] and [`Error::ForeignDevice`] for a kernel of another driver
    /// or device; [`Error::Driver`], also for an earlier fault.
    ///
    /// # Safety
    /// The arguments match the kernel's parameters in number, type and order. Whatever they point to stays valid for
    /// the kernel's accesses until the kernel has ended; until then, neither its module nor a buffer may be dropped.
    #[doc(alias = "cuLaunchKernel")]
    #[doc(alias = "cuLaunchKernelEx")]
    #[doc(alias = "cuLaunchCooperativeKernel")]
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        let function = kernel.raw_for(self.device())?;
        self.check_clusters(config)?;
        if config.programmatic_dependent {
            self.check_programmatic()?;
        }
        let prepared = kernel.prepare(config);
        prepared
            // SAFETY: the caller makes the same promise.
            .and_then(|()| unsafe { self.launch_raw(function, config, args) })
            .map_err(|error| limits::explained(self, kernel, config, error))
    }

    /// Launches a raw function.
    ///
    /// # Safety
    /// As [`Stream::launch`]; the function is live.
    pub(crate) unsafe fn launch_raw(
        &self,
        function: CUfunction,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        /// Number of arguments up to which no allocation is needed.
        const INLINE: usize = 16;
        let mut inline = [ptr::null_mut::<c_void>(); INLINE];
        let mut spilled = Vec::new();
        let pointers = if let Some(slots) = inline.get_mut(..args.len()) {
            slots
        } else {
            spilled.resize(args.len(), ptr::null_mut());
            spilled.as_mut_slice()
        };
        for (slot, arg) in pointers.iter_mut().zip(args) {
            *slot = arg.as_ptr().cast_mut();
        }
        if !config.is_plain() {
            // SAFETY: the caller vouches for the function and the arguments.
            return unsafe { self.launch_with_attributes(function, config, pointers) };
        }
        let [grid_x, grid_y, grid_z] = config.grid;
        let [block_x, block_y, block_z] = config.block;
        // SAFETY: the caller vouches for the arguments; the driver reads them before it returns. The
        // stream is live. No context needs to be current: the stream decides (measured).
        unsafe {
            self.driver().cuLaunchKernel(
                function,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                config.shared_bytes,
                self.raw(),
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }

    /// Launches a function in clusters or cooperatively.
    ///
    /// # Safety
    /// The function is live, and the pointers point to its arguments.
    unsafe fn launch_with_attributes(
        &self,
        function: CUfunction,
        config: &LaunchConfig,
        pointers: &mut [*mut c_void],
    ) -> Result<()> {
        let mut attributes = attributes(config);
        let config = self.raw_config(config, &mut attributes);
        // SAFETY: as in `launch_raw`; the attributes live until the call returns.
        unsafe {
            self.driver().cuLaunchKernelEx(
                &config,
                function,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }

    /// Returns the configuration in the driver's form, which points to the attributes.
    fn raw_config(
        &self,
        config: &LaunchConfig,
        attributes: &mut Vec<CUlaunchAttribute>,
    ) -> CUlaunchConfig {
        let [grid_x, grid_y, grid_z] = config.grid;
        let [block_x, block_y, block_z] = config.block;
        CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: config.shared_bytes,
            hStream: self.raw(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as c_uint,
        }
    }

    /// Ensures that clusters are supported before the driver is called: a refused launch invalidates a capture.
    #[inline]
    fn check_clusters(&self, config: &LaunchConfig) -> Result<()> {
        match config.cluster {
            Some(cluster) => self.check_cluster(cluster),
            None => Ok(()),
        }
    }

    /// Ensures that the device and the driver support programmatic dependent launches.
    #[cold]
    fn check_programmatic(&self) -> Result<()> {
        if self.device().properties().compute_capability < CLUSTERS_SINCE {
            return Err(Error::InvalidArgument {
                name: "programmatic_dependent",
                value: "true".to_owned(),
                reason: "programmatic dependent launches need compute capability 9.0 or later",
            });
        }
        self.check_driver("a programmatic dependent launch")
    }

    /// Ensures that the driver has the attributes that a launch needs.
    fn check_driver(&self, what: &'static str) -> Result<()> {
        if self.driver().version() < CLUSTERS_SINCE_CUDA {
            return Err(Error::Unsupported {
                what,
                needs: CLUSTERS_SINCE_CUDA,
                driver: self.driver().version(),
            });
        }
        Ok(())
    }

    /// Ensures that the device and the driver support clusters of these dimensions.
    #[cold]
    fn check_cluster(&self, cluster: [u32; 3]) -> Result<()> {
        let invalid = |reason| Error::InvalidArgument {
            name: "cluster",
            value: format!("{}×{}×{}", cluster[0], cluster[1], cluster[2]),
            reason,
        };
        if cluster.contains(&0) {
            return Err(invalid(
                "a cluster has at least one block in each dimension",
            ));
        }
        if self.device().properties().compute_capability < CLUSTERS_SINCE {
            return Err(invalid(
                "thread-block clusters need compute capability 9.0 or later",
            ));
        }
        self.check_driver("a launch in thread-block clusters")
    }

    /// Returns the size, in blocks, of the largest cluster that a launch of this configuration can have in the
    /// stream's context; 1 if the device or the driver has no clusters. The result is at most 8, and at most 16 for a
    /// kernel that was once launched or queried with a cluster of more than 8.
    ///
    /// A partition of 2-SM units has clusters of 2 (measured on an H200, driver 580): see
    /// [`PartitionRequest::cluster`](crate::planner::PartitionRequest::cluster).
    ///
    /// # Errors
    /// [`Error::LaunchRefused`] for a configuration that no launch can have; [`Error::ForeignDriver`],
    /// [`Error::ForeignDevice`], [`Error::Driver`].
    #[doc(alias = "cuOccupancyMaxPotentialClusterSize")]
    pub fn max_cluster_size(&self, kernel: &Kernel, config: &LaunchConfig) -> Result<u32> {
        let function = kernel.raw_for(self.device())?;
        if self.check_cluster([1; 3]).is_err() {
            return Ok(1);
        }
        // The driver searches for a cluster size, so the configuration must not have one.
        let wanted = LaunchConfig {
            cluster: None,
            ..*config
        };
        self.query_clusters(kernel, config, &wanted, |size, raw| {
            // SAFETY: the function is live, the output valid, and the attributes of `raw` live through the call.
            unsafe {
                self.driver()
                    .cuOccupancyMaxPotentialClusterSize(size, function, raw)
            }
        })
    }

    /// Returns how many clusters of the configuration's size can be resident at once in the stream's context; 0 if
    /// none fits, in which case the launch would be refused.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    #[doc(alias = "cuOccupancyMaxActiveClusters")]
    pub fn max_active_clusters(&self, kernel: &Kernel, config: &LaunchConfig) -> Result<u32> {
        let function = kernel.raw_for(self.device())?;
        let config = LaunchConfig {
            cluster: Some(config.cluster.unwrap_or([1; 3])),
            ..*config
        };
        self.check_clusters(&config)?;
        self.query_clusters(kernel, &config, &config, |clusters, raw| {
            // SAFETY: the function is live, the output valid, and the attributes of `raw` live through the call.
            unsafe {
                self.driver()
                    .cuOccupancyMaxActiveClusters(clusters, function, raw)
            }
        })
    }

    /// Returns how many blocks of this configuration can be resident at once on the SMs of the stream's context,
    /// which is the largest grid of a cooperative launch. Other work on these SMs is not taken into account.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    #[doc(alias = "cuOccupancyMaxActiveBlocksPerMultiprocessor")]
    pub fn max_cooperative_blocks(&self, kernel: &Kernel, config: &LaunchConfig) -> Result<u64> {
        if config.cluster.is_some() {
            let clusters = self.max_active_clusters(kernel, config)?;
            return Ok(u64::from(clusters).saturating_mul(config.cluster_size()));
        }
        let function = kernel.raw_for(self.device())?;
        let blocks = self.query_launch(kernel, config, || {
            let threads = c_int::try_from(config.threads()).unwrap_or(c_int::MAX);
            let mut blocks = 0;
            // SAFETY: the function is live, the output valid.
            unsafe {
                self.driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(
                    &mut blocks,
                    function,
                    threads,
                    config.shared_bytes as usize,
                )
            }?;
            Ok(u64::try_from(blocks).unwrap_or(0))
        })?;
        Ok(blocks * u64::from(self.context().sm_count()))
    }

    /// Queries the driver about clusters with the attributes of `wanted`; errors name `config`.
    fn query_clusters(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        wanted: &LaunchConfig,
        query: impl FnOnce(&mut c_int, &CUlaunchConfig) -> Result<()>,
    ) -> Result<u32> {
        self.query_launch(kernel, config, || {
            let mut attributes = attributes(wanted);
            let raw = self.raw_config(wanted, &mut attributes);
            let mut answer = 0;
            query(&mut answer, &raw)?;
            Ok(u32::try_from(answer).unwrap_or(0))
        })
    }

    /// Queries the driver about a launch, for which the kernel is prepared first.
    fn query_launch<T>(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        query: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        kernel
            .prepare(config)
            .and_then(|()| self.device().with_primary(query))
            .map_err(|error| limits::explained_by_device(kernel, config, error))
    }
}

/// Returns the launch attributes of a configuration: cluster dimensions, cooperation, programmatic dependence.
fn attributes(config: &LaunchConfig) -> Vec<CUlaunchAttribute> {
    let mut attributes = Vec::with_capacity(3);
    if let Some([x, y, z]) = config.cluster {
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            ..Default::default()
        };
        attribute.value.clusterDim.x = x;
        attribute.value.clusterDim.y = y;
        attribute.value.clusterDim.z = z;
        attributes.push(attribute);
    }
    if config.cooperative {
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            ..Default::default()
        };
        attribute.value.cooperative = 1;
        attributes.push(attribute);
    }
    if config.programmatic_dependent {
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            ..Default::default()
        };
        attribute.value.programmaticStreamSerializationAllowed = 1;
        attributes.push(attribute);
    }
    attributes
}

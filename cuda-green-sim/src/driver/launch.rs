//! Launches, and the number of clusters that fit.

use std::ffi::c_void;

use cuda_green_sys::{
    CUfunc_st, CUfunction_attribute, CUlaunchAttributeID_enum, CUlaunchConfig, CUresult,
    CUstream_st,
};

use super::{
    Context, Driver, State,
    functions::set_attribute,
    modules::Function,
    require,
    stream_actions::{Action, KernelLaunch},
};
use crate::{
    c_args::{Answer, Arg, Raw},
    clusters::{clusters, largest_cluster},
};

/// The most blocks of clusters that an SM holds: 8 where 16 blocks of 128 threads would fit (measured on an H200,
/// driver 580; the reason is not known).
const CLUSTER_BLOCKS_PER_SM: u32 = 8;

/// The parameters of a launch.
struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    /// Blocks of a cluster in x, y and z, if clusters are requested.
    cluster: Option<[u32; 3]>,
    /// Whether all blocks must be on SMs at once, because they wait for each other.
    cooperative: bool,
}

impl LaunchConfig {
    fn threads(&self) -> u64 {
        product(self.block)
    }

    fn cluster_size(&self) -> Result<u32, CUresult> {
        let Some(dims) = self.cluster else {
            return Ok(1);
        };
        u32::try_from(product(dims))
            .ok()
            .filter(|size| *size > 0)
            .ok_or(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE)
    }

    /// Refuses a grid that is not made of whole clusters (code measured on an H200, driver 580).
    fn of_whole_clusters(&self, dims: [u32; 3]) -> Answer {
        let mut sides = self.grid.iter().zip(dims);
        if sides.all(|(grid, cluster)| grid.is_multiple_of(cluster)) {
            Ok(())
        } else {
            Err(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE)
        }
    }

    fn read(c_config: &CUlaunchConfig) -> Result<Self, CUresult> {
        let (mut cluster, mut cooperative) = (None, false);
        // SAFETY: the attributes are part of the configuration that the client's call promises to be
        // valid; `lift` takes over that promise.
        let attributes = unsafe { c_config.attrs.lift() };
        for index in 0..c_config.numAttrs as usize {
            let attribute = attributes.at(index)?;
            if attribute.id == CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION {
                // SAFETY: every bit pattern is valid for these integers; the id says they were set.
                let dims = unsafe { attribute.value.clusterDim };
                cluster = Some([dims.x, dims.y, dims.z]);
            } else if attribute.id == CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_COOPERATIVE {
                // SAFETY: as above.
                cooperative = unsafe { attribute.value.cooperative } != 0;
            }
        }
        Ok(Self {
            grid: [c_config.gridDimX, c_config.gridDimY, c_config.gridDimZ],
            block: [c_config.blockDimX, c_config.blockDimY, c_config.blockDimZ],
            shared_bytes: c_config.sharedMemBytes,
            cluster,
            cooperative,
        })
    }
}

impl Driver {
    #[allow(clippy::too_many_arguments)] // the driver's own signature
    pub(crate) fn cuLaunchKernel(
        &self,
        function: Raw<CUfunc_st>,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared_bytes: u32,
        stream: Raw<CUstream_st>,
        params: Raw<*mut c_void>,
        extra: Raw<*mut c_void>,
    ) -> Answer {
        let config = LaunchConfig {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared_bytes,
            cluster: None,
            cooperative: false,
        };
        self.launch(function.handle(), &config, stream.handle(), &params, &extra)
    }

    pub(crate) fn cuLaunchKernelEx(
        &self,
        c_config: Raw<CUlaunchConfig>,
        function: Raw<CUfunc_st>,
        params: Raw<*mut c_void>,
        extra: Raw<*mut c_void>,
    ) -> Answer {
        let c_config = c_config.get()?;
        let config = LaunchConfig::read(&c_config)?;
        let stream = c_config.hStream as usize as u64;
        self.launch(function.handle(), &config, stream, &params, &extra)
    }

    fn launch(
        &self,
        handle: u64,
        config: &LaunchConfig,
        stream: u64,
        params: &Raw<*mut c_void>,
        extra: &Raw<*mut c_void>,
    ) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream)?;
        let launch = self.prepare(&state, handle, config, stream, params, extra);
        // A wrong launch invalidates a capture (measured on an H200, driver 580).
        let launch = launch.inspect_err(|_| {
            state.invalidate(|capture| capture.has(&lane.lane));
        })?;
        self.enqueue(state, lane, Action::Kernel(launch))
    }

    /// Checks everything that can be checked before a launch.
    fn prepare(
        &self,
        state: &State,
        handle: u64,
        config: &LaunchConfig,
        stream: u64,
        params: &Raw<*mut c_void>,
        extra: &Raw<*mut c_void>,
    ) -> Result<KernelLaunch, CUresult> {
        let function = self.function(state, handle)?;
        // A stream that the client made needs no current context (measured on an H200, driver 580).
        let context = self.stream_context(state, stream)?;
        // A module's function belongs to its device; a library's kernel has one function on each device.
        let of = state.modules.get(&function.module).map(|its| its.device);
        if of.is_some_and(|of| Ok(of) != state.device_of(context)) {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        require(config.grid.iter().all(|n| *n > 0) && config.grid[0] <= i32::MAX as u32)?;
        require(config.grid[1..].iter().all(|n| *n <= 65_535))?;
        require(
            config.block.iter().all(|n| *n > 0)
                && config.threads() <= 1024
                && config.block[2] <= 64,
        )?;
        require(config.shared_bytes <= self.dynamic_shared(state, handle))?;
        if let Some(dims) = config.cluster {
            let size = config.cluster_size()?;
            config.of_whole_clusters(dims)?;
            let too_large = size > MOST_IN_A_CLUSTER;
            if too_large || self.active_clusters(state, handle, context, config, size)? == 0 {
                return Err(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
            }
        }
        let args = arguments(&function, params, extra)?;
        let sm_ids = match context {
            Context::Green(handle) => self.green(state, handle)?.sms.ids(),
            Context::Primary(_) => self.sms().ids(),
        };
        if config.cooperative && product(config.grid) > self.resident_blocks(config, sm_ids.len()) {
            return Err(CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        }
        let seen_sm_ids = match self.injections.mps() {
            Some(_) => (0..sm_ids.len() as u32).collect(),
            None => sm_ids.clone(),
        };
        let priority = self.priority(state, stream)?;
        Ok(KernelLaunch {
            function: handle,
            name: function.name,
            grid: config.grid,
            block: config.block,
            shared_bytes: config.shared_bytes,
            cluster: config.cluster.unwrap_or([1; 3]),
            args,
            context,
            sm_ids,
            seen_sm_ids,
            priority,
        })
    }

    /// Returns the largest cluster that fits, up to the portable 8 or what the function allows. Below compute
    /// capability 9.0 there are no clusters; the code for that is not measured.
    pub(crate) fn cuOccupancyMaxPotentialClusterSize(
        &self,
        size: Raw<i32>,
        function: Raw<CUfunc_st>,
        c_config: Raw<CUlaunchConfig>,
    ) -> Answer {
        let state = self.enter()?;
        size.required()?;
        self.function(&state, function.handle())?;
        let c_config = c_config.get()?;
        let context = self.stream_context(&state, c_config.hStream as usize as u64)?;
        if !self.profile.device.has_clusters() {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let largest = match context {
            Context::Primary(_) => largest_cluster(self.profile.device.sms().chunks()),
            Context::Green(handle) => largest_cluster(self.green(&state, handle)?.sms.chunks()),
        };
        let most = if allows_larger_clusters(&state, function.handle()) {
            MOST_IN_A_CLUSTER
        } else {
            PORTABLE_CLUSTER
        };
        size.set(largest.min(most) as i32)
    }

    pub(crate) fn cuOccupancyMaxActiveClusters(
        &self,
        clusters: Raw<i32>,
        function: Raw<CUfunc_st>,
        c_config: Raw<CUlaunchConfig>,
    ) -> Answer {
        let state = self.enter()?;
        clusters.required()?;
        self.function(&state, function.handle())?;
        let c_config = c_config.get()?;
        let config = LaunchConfig::read(&c_config)?;
        let context = self.stream_context(&state, c_config.hStream as usize as u64)?;
        let size = config.cluster_size()?;
        config.of_whole_clusters(config.cluster.unwrap_or([1; 3]))?;
        require(config.threads() > 0 && config.threads() <= 1024)?;
        let active = self.active_clusters(&state, function.handle(), context, &config, size)?;
        // A count of zero is an answer, not an error, though a launch would be refused (measured on an H200, driver
        // 580).
        clusters.set(active as i32)
    }

    /// Returns how many blocks of a launch that many SMs hold at once, by the limits of an SM. A cooperative launch
    /// of more returns 720, and only the SMs of its green context count (an H200, driver 580, in the suite's
    /// `launches/all_blocks_meet_at_a_barrier`). Registers are not modelled, nor that fewer blocks fit in clusters.
    fn resident_blocks(&self, config: &LaunchConfig, sms: usize) -> u64 {
        let on_each = self.blocks_on_an_sm(config, self.profile.device.blocks_per_sm());
        u64::from(on_each) * sms as u64
    }

    /// Returns how many blocks of a launch fit on an SM, limited to a maximum.
    fn blocks_on_an_sm(&self, config: &LaunchConfig, most: u32) -> u32 {
        let profile = self.profile.device;
        let threads = (config.threads() as u32).next_multiple_of(32).max(32);
        let by_threads = profile.threads_per_sm() / threads;
        // Each block reserves 1 KiB of shared memory.
        let by_shared = profile.shared_per_sm() / config.shared_bytes.saturating_add(1024);
        most.min(by_threads).min(by_shared)
    }

    /// Returns how many clusters of `size` blocks run at once in a context.
    fn active_clusters(
        &self,
        state: &State,
        function: u64,
        context: Context,
        config: &LaunchConfig,
        size: u32,
    ) -> Result<u32, CUresult> {
        let profile = self.profile.device;
        if size > 1 && !profile.has_clusters() {
            return Err(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        }
        if size > PORTABLE_CLUSTER && !allows_larger_clusters(state, function) {
            return Err(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        }
        if config.shared_bytes > self.dynamic_shared(state, function) {
            return Ok(0);
        }
        let blocks = self.blocks_on_an_sm(config, CLUSTER_BLOCKS_PER_SM);
        Ok(match context {
            Context::Green(handle) => {
                clusters(self.green(state, handle)?.sms.chunks(), size, blocks)
            }
            Context::Primary(_) => clusters(profile.sms().chunks(), size, blocks),
        })
    }
}

/// The blocks of a cluster that every device with clusters supports (NVIDIA's programming guide of 9.0 and 10.0).
const PORTABLE_CLUSTER: u32 = 8;
/// The most blocks for a function whose attribute allows more. Of larger clusters, a query still returns how many
/// would fit, but none is launched (measured on an H200, driver 580).
const MOST_IN_A_CLUSTER: u32 = 16;

fn allows_larger_clusters(state: &State, function: u64) -> bool {
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
    set_attribute(state, function, attribute) == Some(1)
}

/// Multiplies three sides; returns the largest number on overflow.
fn product(sides: [u32; 3]) -> u64 {
    let sides = sides.into_iter().map(u64::from);
    sides.fold(1, u64::saturating_mul)
}

/// Returns a kernel's arguments as bytes: from an array of pointers, or from one buffer.
fn arguments(
    function: &Function,
    params: &Raw<*mut c_void>,
    extra: &Raw<*mut c_void>,
) -> Result<Vec<Vec<u8>>, CUresult> {
    let sizes = &function.parameters;
    if !params.is_null() {
        require(extra.is_null())?;
        return sizes
            .iter()
            .enumerate()
            .map(|(index, size)| {
                let pointer = params.pointer_at(index)?;
                pointer.required()?;
                let mut bytes = vec![0; *size];
                pointer.read_bytes(0, &mut bytes);
                Ok(bytes)
            })
            .collect();
    }
    if extra.is_null() {
        require(sizes.is_empty())?;
        return Ok(Vec::new());
    }
    // CU_LAUNCH_PARAM_END, _BUFFER_POINTER and _BUFFER_SIZE are 0, 1 and 2 in place of a pointer.
    let (mut buffer, mut len) = (None, 0);
    for pair in 0.. {
        match extra.pointer_at(2 * pair)?.handle() {
            0 => break,
            1 => buffer = Some(extra.pointer_at(2 * pair + 1)?),
            2 => len = extra.pointer_at(2 * pair + 1)?.cast::<usize>().get()?,
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    }
    let buffer = buffer.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    buffer.required()?;
    let mut at = 0_usize;
    let mut arguments = Vec::with_capacity(sizes.len());
    for size in sizes {
        // Parameters lie at multiples of their own size, up to 16 bytes.
        at = at.next_multiple_of(size.next_power_of_two().clamp(1, 16));
        // A buffer that is too short is no error (measured on an H200, driver 580). What the kernel reads beyond its
        // end is not known; here it is zero.
        let mut bytes = vec![0; *size];
        buffer.read_bytes(at, &mut bytes[..len.saturating_sub(at).min(*size)]);
        arguments.push(bytes);
        at += size;
    }
    // A buffer that is too long is one (measured there too).
    if len > at {
        return Err(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    }
    Ok(arguments)
}

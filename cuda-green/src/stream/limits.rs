//! The limit that a refused launch exceeds, in words.

use cuda_green_sys::{CUdevice_attribute as D, CUfunction_attribute as F};

use crate::{error::Error, launch::LaunchConfig, module::Kernel, stream::Stream};

/// A launch's refusal with the kernel's name, the shape, and the limit where it is known.
#[cold]
pub(super) fn explained(
    stream: &Stream,
    kernel: &Kernel,
    config: &LaunchConfig,
    error: Error,
) -> Error {
    refused(kernel, config, error, || {
        of_device(kernel, config).or_else(|| of_partition(stream, kernel, config))
    })
}

/// The same for a question about a launch.
#[cold]
pub(super) fn by_device(kernel: &Kernel, config: &LaunchConfig, error: Error) -> Error {
    refused(kernel, config, error, || of_device(kernel, config))
}

fn refused(
    kernel: &Kernel,
    config: &LaunchConfig,
    error: Error,
    limit: impl FnOnce() -> Option<String>,
) -> Error {
    match error {
        // A capture has its own reasons.
        Error::Driver { call, code } if !(900..910).contains(&code.0) => Error::LaunchRefused {
            kernel: kernel.name().to_owned(),
            config: Box::new(*config),
            call,
            code,
            limit: limit(),
        },
        error => error,
    }
}

/// The first limit of the device or the kernel that the shape exceeds. Where the driver does not tell a limit,
/// none is exceeded.
fn of_device(kernel: &Kernel, config: &LaunchConfig) -> Option<String> {
    let device = kernel.module().device();
    let of_device = |which| device.attribute(which).map(i64::from).unwrap_or(i64::MAX);
    let of_kernel = |which| kernel.attribute(which).map(i64::from);
    if config.grid.contains(&0) || config.block.contains(&0) {
        return Some("each side of a grid and of a block is at least 1".to_owned());
    }
    let grid = [
        D::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X,
        D::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y,
        D::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z,
    ];
    let block = [
        D::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X,
        D::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y,
        D::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z,
    ];
    let sides = [("grid", config.grid, grid), ("block", config.block, block)];
    for (what, sides, limits) in sides {
        for ((side, limit), name) in sides.into_iter().zip(limits).zip(["x", "y", "z"]) {
            let limit = of_device(limit);
            if i64::from(side) > limit {
                return Some(format!(
                    "on this device a {what} has at most {limit} in {name}"
                ));
            }
        }
    }
    let threads = i64::try_from(config.threads()).unwrap_or(i64::MAX);
    let most = of_kernel(F::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK).unwrap_or(i64::MAX);
    let most = most.min(of_device(D::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
    if threads > most {
        return Some(format!(
            "a block has {threads} threads, and this kernel's at most {most} on this device"
        ));
    }
    let own = of_kernel(F::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES).unwrap_or(0);
    let most = of_device(D::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    if i64::from(config.shared_bytes).saturating_add(own) > most {
        return Some(format!(
            "a block has at most {most} bytes of shared memory on this device, and {own} are the kernel's own"
        ));
    }
    let cluster = config.cluster?;
    let mut sides = config.grid.iter().zip(cluster);
    let whole = sides.all(|(grid, side)| side > 0 && grid.is_multiple_of(side));
    (!whole).then(|| "the grid is not made of whole clusters".to_owned())
}

/// The limit of the stream's SMs that the launch exceeds.
fn of_partition(stream: &Stream, kernel: &Kernel, config: &LaunchConfig) -> Option<String> {
    let sms = stream.context().sm_count();
    if config.cluster.is_some() {
        let largest = stream.max_cluster_size(kernel, config).ok()?;
        if config.cluster_size() > u64::from(largest) {
            return Some(format!(
                "on the {sms} SMs of the stream's context a cluster has at most {largest} blocks"
            ));
        }
    }
    let most = stream.max_cooperative_blocks(kernel, config).ok()?;
    if most == 0 {
        return Some(format!(
            "not one fits the {sms} SMs of the stream's context"
        ));
    }
    (config.cooperative && config.blocks() > most).then(|| {
        format!(
            "on the {sms} SMs of the stream's context {most} blocks are resident at once, and a cooperative \
             launch of {} needs them all",
            config.blocks()
        )
    })
}

//! Errors of refused launches, which name the limit that the launch exceeds.

use cuda_green_sys::{CUdevice_attribute as D, CUfunction_attribute as F};

use super::queue::Stream;
use crate::{error::Error, launch::LaunchConfig, module::Kernel};

/// Adds the kernel's name, the configuration and, if it is known, the exceeded limit to a refused launch's error.
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

/// Adds the same to the error of a query about a launch, which no partition limits.
#[cold]
pub(super) fn explained_by_device(kernel: &Kernel, config: &LaunchConfig, error: Error) -> Error {
    refused(kernel, config, error, || of_device(kernel, config))
}

/// Turns a driver's refusal into [`Error::LaunchRefused`]; other errors stay as they are.
fn refused(
    kernel: &Kernel,
    config: &LaunchConfig,
    error: Error,
    limit: impl FnOnce() -> Option<String>,
) -> Error {
    match error {
        // Codes 900 to 909 concern a capture, which explains them itself.
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

/// Returns the first limit of the device or the kernel that the configuration exceeds. A limit that the driver does not
/// report is not checked.
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
            "a block has {threads} threads, but this kernel allows at most {most} on this device"
        ));
    }
    let own = of_kernel(F::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES).unwrap_or(0);
    let most = of_device(D::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    if i64::from(config.shared_bytes).saturating_add(own) > most {
        return Some(format!(
            "a block has at most {most} bytes of shared memory on this device, of which the kernel uses {own} statically"
        ));
    }
    let cluster = config.cluster?;
    let mut sides = config.grid.iter().zip(cluster);
    let whole = sides.all(|(grid, side)| side > 0 && grid.is_multiple_of(side));
    (!whole).then(|| "the grid is not a multiple of the cluster in each dimension".to_owned())
}

/// Returns the limit of the stream's SMs that the launch exceeds.
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
            "not one of its blocks fits on the {sms} SMs of the stream's context"
        ));
    }
    (config.cooperative && config.blocks() > most).then(|| {
        format!(
            "on the {sms} SMs of the stream's context only {most} blocks can be resident at once, and a cooperative \
             launch needs all its {} to be",
            config.blocks()
        )
    })
}

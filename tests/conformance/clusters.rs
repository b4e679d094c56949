//! Clusters: how large they can be and how many fit, on every kind of partition.

use std::ptr;

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, SmIdsArgs, call, count, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("launch/clusters", clusters),
    Case::new("launch/cluster_shapes", cluster_shapes),
    Case::new("launch/clusters_by_threads", clusters_by_threads),
    Case::new(
        "launch/clusters_by_shared_memory",
        clusters_by_shared_memory,
    ),
    Case::new("launch/clusters_of_more_than_8", clusters_of_more_than_8),
];

/// Occupancy and launch of clusters, as one line.
fn fits(gpu: &Gpu<'_>, stream: CUstream, cluster: u32, threads: u32, grid: u32) -> String {
    fits_with(gpu, stream, cluster, threads, grid, 0)
}

/// The same with dynamic shared memory, in bytes.
fn fits_with(
    gpu: &Gpu<'_>,
    stream: CUstream,
    cluster: u32,
    threads: u32,
    grid: u32,
    shared: u32,
) -> String {
    let mut attribute = CUlaunchAttribute {
        id: CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        ..Default::default()
    };
    attribute.value.clusterDim.x = cluster;
    attribute.value.clusterDim.y = 1;
    attribute.value.clusterDim.z = 1;
    let config = CUlaunchConfig {
        gridDimX: grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared,
        hStream: stream,
        attrs: &mut attribute,
        numAttrs: 1,
    };
    let mut fitting = -1;
    let occupancy = call!(
        gpu,
        cuOccupancyMaxActiveClusters(&mut fitting, gpu.sm_ids, &config)
    );
    let launched = launch(gpu, &config);
    must(call!(gpu, cuStreamSynchronize(stream)));
    format!("{} {fitting}, {}", say(occupancy), say(launched))
}

/// Launches the kernel that notes its SMs, which notes nothing here.
fn launch(gpu: &Gpu<'_>, config: &CUlaunchConfig) -> CUresult {
    let mut args = SmIdsArgs::new(0, 0, 0);
    call!(
        gpu,
        cuLaunchKernelEx(
            config,
            gpu.sm_ids,
            args.pointers().as_mut_ptr(),
            ptr::null_mut()
        )
    )
}

fn largest(gpu: &Gpu<'_>, stream: CUstream, threads: u32) -> String {
    let config = CUlaunchConfig {
        gridDimX: 1024,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: threads,
        blockDimY: 1,
        blockDimZ: 1,
        hStream: stream,
        ..Default::default()
    };
    let mut size = -1;
    let code = call!(
        gpu,
        cuOccupancyMaxPotentialClusterSize(&mut size, gpu.sm_ids, &config)
    );
    format!("{} {size}", say(code))
}

/// Clusters of each size in partitions of each kind: cuts of splits, merges, nested ones.
fn clusters(gpu: &Gpu<'_>, seen: &mut Seen) {
    let whole = gpu.whole();
    let all = count(&whole);
    let mut kinds: Vec<(String, Vec<CUdevResource>)> = vec![("whole".into(), vec![whole])];
    for (wanted, flags, min) in [
        (200, 0, 8),
        (200, 0, 16),
        (200, 0, 24),
        (200, 0, 32),
        (200, 0, 40),
        (200, 0, 48),
        (200, 0, 64),
        (200, 0, 66),
        (200, 0, all - 3),
        (1, 0, 8),
        (1, 0, 32),
        (1, 0, 64),
        (2, 0, 32),
        (3, 0, 32),
        (2, 0, 48),
        (1, 0, 100),
        (4, 2, 32),
        (3, 2, 32),
        (200, 2, 8),
        (200, 1, 2),
        (4, 1, 32),
        (2, 1, 66),
        (1, 1, 100),
    ] {
        let Ok(split) = gpu.split(&whole, wanted, flags, min) else {
            continue;
        };
        let name = format!("{wanted} of {min} flags {flags}");
        kinds.push((format!("{name}: first"), vec![split.groups[0]]));
        let last = split.groups.len() - 1;
        if last > 0 {
            kinds.push((format!("{name}: last"), vec![split.groups[last]]));
        }
        if count(&split.rest) > 0 {
            kinds.push((format!("{name}: rest"), vec![split.rest]));
        }
        if last > 3 {
            kinds.push((format!("{name}: four"), split.groups[..4].to_vec()));
            kinds.push((
                format!("{name}: last four"),
                split.groups[last - 3..].to_vec(),
            ));
            if count(&split.rest) > 0 {
                let mut with_rest = split.groups[..1].to_vec();
                with_rest.push(split.rest);
                kinds.push((format!("{name}: one and rest"), with_rest));
            }
        }
    }
    let mut each = |name: &str, stream: CUstream| {
        let sizes = [1, 2, 3, 4, 5, 6, 7, 8, 16].map(|size| {
            let line = fits(gpu, stream, size, 128, 1680);
            format!("{size}: {line}")
        });
        seen.note(
            name,
            format!("{}; {}", largest(gpu, stream, 128), sizes.join("; ")),
        );
    };
    let plain = gpu.stream_here();
    each("primary", plain);
    gpu.close(plain);
    for (name, resources) in kinds {
        // Drivers before 12.5 take one resource, and those after 13.0 no mixture.
        let Ok(green) = gpu.green(&resources) else {
            continue;
        };
        let stream = gpu.stream(green);
        each(&name, stream);
        if name == "3 of 32 flags 0: rest"
            && let Ok(inner) = gpu.split(&gpu.resource(green), 1, 0, 16)
        {
            let parts = [("nested", inner.groups[0]), ("nested rest", inner.rest)];
            for (name, part) in parts.into_iter().filter(|(_, part)| count(part) > 0) {
                let green = gpu.green(&[part]).unwrap();
                let stream = gpu.stream(green);
                each(name, stream);
                gpu.close(stream);
                gpu.destroy(green);
            }
        }
        gpu.close(stream);
        gpu.destroy(green);
    }
}

/// Grids that are no multiple of the cluster, clusters of nothing, and in several dimensions.
fn cluster_shapes(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    for (cluster, grid) in [
        (0, 8),
        (2, 7),
        (4, 6),
        (8, 8),
        (8, 4),
        (9, 9),
        (16, 16),
        (17, 17),
    ] {
        seen.note(
            format!("{cluster} in a grid of {grid}"),
            fits(gpu, stream, cluster, 128, grid),
        );
    }
    let mut attributes = [CUlaunchAttribute::default(); 2];
    attributes[0].id = CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_IGNORE;
    attributes[1].id = CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    for dims in [[2, 2, 2], [2, 2, 4], [1, 8, 1], [3, 1, 1], [0, 1, 1]] {
        attributes[1].value.clusterDim.x = dims[0];
        attributes[1].value.clusterDim.y = dims[1];
        attributes[1].value.clusterDim.z = dims[2];
        let config = CUlaunchConfig {
            gridDimX: 24,
            gridDimY: 8,
            gridDimZ: 8,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: 2,
            ..Default::default()
        };
        seen.code(format!("{dims:?}"), launch(gpu, &config));
        must(call!(gpu, cuStreamSynchronize(stream)));
    }
    gpu.close(stream);
}

/// How many fit by the size of their blocks, on the whole device and in one unit.
fn clusters_by_threads(gpu: &Gpu<'_>, seen: &mut Seen) {
    let split = gpu.split(&gpu.whole(), 1, 0, 8).unwrap();
    let green = gpu.green(&split.groups).unwrap();
    let streams = [("whole", gpu.stream_here()), ("unit", gpu.stream(green))];
    for (name, stream) in streams {
        for threads in [
            1, 32, 33, 64, 96, 128, 192, 256, 257, 384, 512, 640, 768, 1024,
        ] {
            let sizes = [1, 2, 4, 8].map(|size| fits(gpu, stream, size, threads, 16));
            seen.note(
                format!("{name}, {threads:4} threads"),
                format!("{}; {}", largest(gpu, stream, threads), sizes.join("; ")),
            );
        }
        gpu.close(stream);
    }
    gpu.destroy(green);
}

fn set(gpu: &Gpu<'_>, attribute: CUfunction_attribute, value: i32) -> CUresult {
    call!(gpu, cuFuncSetAttribute(gpu.sm_ids, attribute, value))
}

/// How many fit by the shared memory of their blocks, on the whole device and in one unit.
fn clusters_by_shared_memory(gpu: &Gpu<'_>, seen: &mut Seen) {
    let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let limit = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let mut all = 0;
    must(call!(
        gpu,
        cuDeviceGetAttribute(&mut all, limit, gpu.device)
    ));
    let split = gpu.split(&gpu.whole(), 1, 0, 8).unwrap();
    let green = gpu.green(&split.groups).unwrap();
    let streams = [("whole", gpu.stream_here()), ("unit", gpu.stream(green))];
    for (when, allowed) in [("as it is", 48 << 10), ("all allowed", all)] {
        must(set(gpu, most, allowed));
        for (name, stream) in streams {
            for kib in [0, 16, 24, 48, 64, 96, 112, 160, 200, 227, 228] {
                let sizes =
                    [1, 2, 4, 8].map(|size| fits_with(gpu, stream, size, 128, 16, kib << 10));
                seen.note(format!("{when}, {name}, {kib:3} KiB"), sizes.join("; "));
            }
        }
    }
    for (_, stream) in streams {
        gpu.close(stream);
    }
    gpu.destroy(green);
}

/// Clusters of more than the portable 8 blocks, by what the function allows, in partitions of each kind.
fn clusters_of_more_than_8(gpu: &Gpu<'_>, seen: &mut Seen) {
    let allowed = CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
    let whole = gpu.whole();
    let mut contexts = Vec::new();
    for (name, wanted, flags, min) in [
        ("unit of 8", 1, 0, 8),
        ("16", 1, 0, 16),
        ("32", 4, 0, 32),
        ("32 of pairs", 1, 1, 32),
        ("64", 1, 0, 64),
    ] {
        if let Ok(split) = gpu.split(&whole, wanted, flags, min) {
            contexts.push((name, gpu.green(&split.groups[..1]).unwrap()));
        }
    }
    // Units merged, where that is possible.
    if let Ok(split) = gpu.split(&whole, 4, 0, 8)
        && split.groups.len() == 4
        && let Ok(green) = gpu.green(&split.groups)
    {
        contexts.push(("4 units of 8", green));
    }
    let mut streams = vec![("primary", gpu.stream_here())];
    streams.extend(
        contexts
            .iter()
            .map(|(name, green)| (*name, gpu.stream(*green))),
    );
    for (when, value) in [
        ("as it is", None),
        ("allowed", Some(1)),
        ("again not", Some(0)),
    ] {
        if let Some(value) = value {
            seen.code(when, set(gpu, allowed, value));
        }
        for (name, stream) in &streams {
            for threads in [32, 128, 1024] {
                let note = format!("{when}, {name}, largest of {threads} threads");
                seen.note(note, largest(gpu, *stream, threads));
            }
            for size in [8, 9, 10, 12, 14, 15, 16, 17, 18, 32] {
                // Grids of whole clusters.
                let line = fits(gpu, *stream, size, 128, 2 * size);
                seen.note(format!("{when}, {name}, {size:02}"), line);
            }
        }
    }
    for (_, stream) in streams {
        gpu.close(stream);
    }
    for (_, green) in contexts {
        gpu.destroy(green);
    }
}

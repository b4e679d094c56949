//! Modules and launches: images, shapes, clusters on every kind of partition.

use std::{ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, SmIdsArgs, call, count, must, said, say},
    images::{good_and_bad, image, more_good_and_bad, one_kernel},
};

pub const CASES: &[Case] = &[
    Case::new("modules/images", images),
    Case::new("modules/functions", functions),
    Case::new("modules/wrong_handles", wrong_handles).rough(),
    Case::new("launch/shapes", shapes),
    Case::new("launch/packed_arguments", packed_arguments),
    Case::new("launch/wrong_arguments", wrong_arguments).rough(),
    Case::new("launch/clusters", clusters),
    Case::new("launch/cluster_shapes", cluster_shapes),
    Case::new("launch/clusters_by_threads", clusters_by_threads),
];

fn images(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (name, image) in good_and_bad().into_iter().chain(more_good_and_bad()) {
        let mut module = ptr::null_mut();
        let code = call!(gpu, cuModuleLoadData(&mut module, image.as_ptr().cast()));
        seen.code(name, code);
        if code == OK {
            must(call!(gpu, cuModuleUnload(module)));
        }
        let mut log = [0_u8; 256];
        let mut options = [
            CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values: [*mut c_void; 2] = [
            log.as_mut_ptr().cast(),
            ptr::without_provenance_mut(log.len()),
        ];
        let code = call!(
            gpu,
            cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr()
            )
        );
        let text = if log[0] == 0 { "no log" } else { "a log" };
        seen.note(
            format!("{name}, with a log"),
            format!("{} {text}", say(code)),
        );
        if code == OK {
            must(call!(gpu, cuModuleUnload(module)));
        }
    }
}

fn functions(gpu: &Gpu<'_>, seen: &mut Seen) {
    let image = image(".visible .entry k() { ret; }\n.entry hidden() { ret; }");
    let mut module = ptr::null_mut();
    must(call!(
        gpu,
        cuModuleLoadData(&mut module, image.as_ptr().cast())
    ));
    let one = gpu.function(module, c"k");
    seen.note("there", said(&one));
    seen.note("the same again", one == gpu.function(module, c"k"));
    seen.note("not visible", said(&gpu.function(module, c"hidden")));
    seen.note("not there", said(&gpu.function(module, c"nobody")));
    seen.note("no name", said(&gpu.function(module, c"")));
    // A function of the primary context in streams of green contexts, older and newer than it.
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    seen.code(
        "in a green stream",
        gpu.launch(one.unwrap(), stream, 1, 1, &mut []),
    );
    must(call!(gpu, cuStreamSynchronize(stream)));
    // And one that was loaded with the green context current, in the primary and after its end.
    let mut inner = ptr::null_mut();
    let code = gpu.within(gpu.context(green).unwrap(), || {
        call!(gpu, cuModuleLoadData(&mut inner, image.as_ptr().cast()))
    });
    seen.code("loaded in green", code);
    let function = gpu.function(inner, c"k").unwrap();
    let plain = gpu.stream_here();
    seen.code(
        "loaded in green, launched in primary",
        gpu.launch(function, plain, 1, 1, &mut []),
    );
    gpu.close(stream);
    gpu.destroy(green);
    seen.code(
        "loaded in green, launched after its end",
        gpu.launch(function, plain, 1, 1, &mut []),
    );
    must(call!(gpu, cuStreamSynchronize(plain)));
    seen.code("unload after its end", call!(gpu, cuModuleUnload(inner)));
    gpu.close(plain);
    must(call!(gpu, cuModuleUnload(module)));
}

fn wrong_handles(gpu: &Gpu<'_>, seen: &mut Seen) {
    let image = one_kernel();
    let mut module = ptr::null_mut();
    let data = image.as_ptr().cast();
    seen.code(
        "load to nowhere",
        call!(gpu, cuModuleLoadData(ptr::null_mut(), data)),
    );
    seen.code(
        "load nothing",
        call!(gpu, cuModuleLoadData(&mut module, ptr::null())),
    );
    seen.code("unload null", call!(gpu, cuModuleUnload(ptr::null_mut())));
    must(call!(gpu, cuModuleLoadData(&mut module, data)));
    let mut function = ptr::null_mut();
    let code = call!(gpu, cuModuleGetFunction(&mut function, module, ptr::null()));
    seen.code("function without a name", code);
    let code = call!(
        gpu,
        cuModuleGetFunction(ptr::null_mut(), module, c"k".as_ptr())
    );
    seen.code("function to nowhere", code);
    let code = gpu.function(ptr::null_mut(), c"k");
    seen.note("function of null", said(&code));
    seen.code(
        "launch null",
        gpu.launch(ptr::null_mut(), ptr::null_mut(), 1, 1, &mut []),
    );
    must(call!(gpu, cuModuleUnload(module)));
    seen.code("unload twice", call!(gpu, cuModuleUnload(module)));
}

/// One launch in all its dimensions.
fn launch(gpu: &Gpu<'_>, grid: [u32; 3], block: [u32; 3], shared: u32) -> CUresult {
    let mut args = SmIdsArgs::new(0, 0, 0);
    let none: CUstream = ptr::null_mut();
    let code = call!(
        gpu,
        cuLaunchKernel(
            gpu.sm_ids,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            shared,
            none,
            args.pointers().as_mut_ptr(),
            ptr::null_mut()
        )
    );
    must(call!(gpu, cuStreamSynchronize(none)));
    code
}

fn shapes(gpu: &Gpu<'_>, seen: &mut Seen) {
    for grid in [
        [0, 1, 1],
        [1, 0, 1],
        [1, 1, 0],
        [0x8000_0000, 1, 1],
        [u32::MAX, 1, 1],
        [1, 65_535, 1],
        [1, 65_536, 1],
        [1, 1, 65_535],
        [1, 1, 65_536],
    ] {
        seen.code(format!("grid {grid:?}"), launch(gpu, grid, [1; 3], 0));
    }
    for block in [
        [0, 1, 1],
        [1, 0, 1],
        [1, 1, 0],
        [1024, 1, 1],
        [1025, 1, 1],
        [1, 1024, 1],
        [1, 1025, 1],
        [1, 1, 64],
        [1, 1, 65],
        [32, 32, 1],
        [32, 33, 1],
        [16, 16, 4],
    ] {
        seen.code(format!("block {block:?}"), launch(gpu, [1; 3], block, 0));
    }
    for shared in [48 << 10, (48 << 10) + 1, 228 << 10, u32::MAX] {
        seen.code(
            format!("shared {shared}"),
            launch(gpu, [1; 3], [1; 3], shared),
        );
    }
}

/// Arguments in one buffer, by the `extra` parameter.
fn packed_arguments(gpu: &Gpu<'_>, seen: &mut Seen) {
    let address = gpu.alloc(4096).unwrap();
    let stream = gpu.stream_here();
    let mut go = |name: &str, bytes: &[u8], mut len: usize| {
        must(call!(gpu, cuMemsetD8Async(address, 0, 4096, stream)));
        let number = ptr::without_provenance_mut::<c_void>;
        let mut extra: [*mut c_void; 5] = [
            number(1),
            bytes.as_ptr().cast_mut().cast(),
            number(2),
            (&raw mut len).cast(),
            number(0),
        ];
        let none = ptr::null_mut();
        let code = call!(
            gpu,
            cuLaunchKernel(
                gpu.sm_ids,
                5,
                1,
                1,
                32,
                1,
                1,
                0,
                stream,
                none,
                extra.as_mut_ptr()
            )
        );
        let mut counts = [0_u32; 1024];
        let to = counts.as_mut_ptr().cast();
        must(call!(gpu, cuMemcpyDtoHAsync_v2(to, address, 4096, stream)));
        must(call!(gpu, cuStreamSynchronize(stream)));
        let sum: u32 = counts.iter().sum();
        seen.note(name, format!("{} {sum}", say(code)));
    };
    let mut bytes = address.to_ne_bytes().to_vec();
    bytes.extend(1024_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    go("whole", &bytes, 16);
    bytes.extend([0; 16]);
    go("longer", &bytes, 32);
    gpu.close(stream);
    must(call!(gpu, cuMemFree_v2(address)));
}

fn wrong_arguments(gpu: &Gpu<'_>, seen: &mut Seen) {
    let mut args = SmIdsArgs::new(0, 0, 0);
    let mut args = args.pointers();
    let number = ptr::without_provenance_mut::<c_void>;
    let mut buffer = [0_u64; 2];
    let mut short = 8_usize;
    let mut extra = [
        number(1),
        buffer.as_mut_ptr().cast(),
        number(2),
        (&raw mut short).cast(),
        number(0),
    ];
    let none: CUstream = ptr::null_mut();
    let mut go = |name: &str, params: *mut *mut c_void, extra: *mut *mut c_void| {
        let code = call!(
            gpu,
            cuLaunchKernel(gpu.sm_ids, 1, 1, 1, 1, 1, 1, 0, none, params, extra)
        );
        seen.code(name, code);
    };
    go("both ways", args.as_mut_ptr(), extra.as_mut_ptr());
    go("too short a buffer", ptr::null_mut(), extra.as_mut_ptr());
    extra[0] = number(9);
    go("an unknown extra", ptr::null_mut(), extra.as_mut_ptr());
    go("neither way", ptr::null_mut(), ptr::null_mut());
    let mut with_null = args;
    with_null[1] = ptr::null_mut();
    go("a null argument", with_null.as_mut_ptr(), ptr::null_mut());
    let code = call!(
        gpu,
        cuLaunchKernelEx(ptr::null(), gpu.sm_ids, args.as_mut_ptr(), ptr::null_mut())
    );
    seen.code("no configuration", code);
}

/// Occupancy and launch of clusters, as one line.
fn fits(gpu: &Gpu<'_>, stream: CUstream, cluster: u32, threads: u32, grid: u32) -> String {
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
        hStream: stream,
        attrs: &mut attribute,
        numAttrs: 1,
        ..Default::default()
    };
    let mut fitting = -1;
    let occupancy = call!(
        gpu,
        cuOccupancyMaxActiveClusters(&mut fitting, gpu.sm_ids, &config)
    );
    let mut args = SmIdsArgs::new(0, 0, 0);
    let launched = call!(
        gpu,
        cuLaunchKernelEx(
            &config,
            gpu.sm_ids,
            args.pointers().as_mut_ptr(),
            ptr::null_mut()
        )
    );
    must(call!(gpu, cuStreamSynchronize(stream)));
    format!("{} {fitting}, {}", say(occupancy), say(launched))
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
        let mut args = SmIdsArgs::new(0, 0, 0);
        let code = call!(
            gpu,
            cuLaunchKernelEx(
                &config,
                gpu.sm_ids,
                args.pointers().as_mut_ptr(),
                ptr::null_mut()
            )
        );
        seen.code(format!("{dims:?}"), code);
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

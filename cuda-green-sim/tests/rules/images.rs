//! Images other than PTX, and the kernels that a module has.

use std::{
    ffi::{CStr, c_void},
    ptr,
};

use crate::client::*;
use cuda_green_sys::*;

const TWO: &CStr = c".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry second(.param .u64 a, .param .u32 b) { ret; }\n.visible .entry first() { ret; }\n";

/// Adds one more text to a link and returns its code.
fn add(client: &Client, link: CUlinkState, ptx: &CStr) -> CUresult {
    let (options, values) = (ptr::null_mut(), ptr::null_mut());
    call!(
        client,
        cuLinkAddData_v2(
            link,
            CUjitInputType::CU_JIT_INPUT_PTX,
            ptx.as_ptr().cast_mut().cast(),
            ptx.to_bytes_with_nul().len(),
            c"two".as_ptr(),
            0,
            options,
            values
        )
    )
}

/// Links a cubin for the device with the driver's linker.
fn linked(client: &Client, ptx: &CStr) -> Vec<u8> {
    let none = ptr::null_mut();
    let mut link = ptr::null_mut();
    ok!(client, cuLinkCreate_v2(0, none, ptr::null_mut(), &mut link));
    assert_eq!(add(client, link, ptx), OK);
    let (mut cubin, mut size) = (ptr::null_mut(), 0);
    ok!(client, cuLinkComplete(link, &mut cubin, &mut size));
    // SAFETY: the driver reports its length, and it lives as long as the link.
    let image = unsafe { std::slice::from_raw_parts(cubin.cast::<u8>(), size) }.to_vec();
    assert_eq!(client.sim.live_objects().links, 1);
    ok!(client, cuLinkDestroy(link));
    assert_eq!(client.sim.live_objects().links, 0);
    image
}

#[test]
fn a_link_that_is_gone_is_of_no_use() {
    let client = Client::new("h200@13.0");
    let (none, mut link) = (ptr::null_mut(), ptr::null_mut());
    ok!(client, cuLinkCreate_v2(0, none, ptr::null_mut(), &mut link));
    let told = client.sim.live_objects().to_string();
    assert!(told.contains("1 link (cuLinkCreate_v2 at call"), "{told}");
    ok!(client, cuLinkDestroy(link));
    let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
    assert_eq!(call!(client, cuLinkDestroy(link)), invalid);
    let (mut cubin, mut size) = (ptr::null_mut(), 0);
    let code = call!(client, cuLinkComplete(link, &mut cubin, &mut size));
    assert_eq!(code, invalid);
    assert_eq!(add(&client, link, TWO), invalid);
    // The other module's function has another handle.
    let mut next = ptr::null_mut();
    ok!(client, cuLinkCreate_v2(0, none, ptr::null_mut(), &mut next));
    assert_ne!(next, link);
    ok!(client, cuLinkDestroy(next));
    client.finish();
}

/// The log of a link receives the messages of each image without a log.
#[test]
fn a_links_log_tells_what_an_image_has_wrong() {
    let client = Client::new("h200@13.0");
    let mut logs = [[0_u8; 128]; 2];
    let mut options = [
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let options = options.as_mut_ptr();
    let size = ptr::without_provenance_mut::<c_void>(128);
    let [of_link, of_image] = &mut logs;
    let mut values = [
        [of_link.as_mut_ptr().cast(), size],
        [of_image.as_mut_ptr().cast(), size],
    ];
    let mut link = ptr::null_mut();
    ok!(
        client,
        cuLinkCreate_v2(2, options, values[0].as_mut_ptr(), &mut link)
    );
    let text = c".version 7.0\n.target sm_70\n.address_size 64\n.entry k() {\n nonsense; }";
    let len = text.to_bytes_with_nul().len();
    let kind = CUjitInputType::CU_JIT_INPUT_PTX;
    let mut add = |count| {
        let (data, name) = (text.as_ptr().cast_mut().cast(), c"k".as_ptr());
        let values = values[1].as_mut_ptr();
        let code = call!(
            client,
            cuLinkAddData_v2(link, kind, data, len, name, count, options, values)
        );
        // SAFETY: the driver wrote NUL-terminated text into them.
        let told = logs
            .each_ref()
            .map(|log| unsafe { CStr::from_ptr(log.as_ptr().cast()) });
        (code, told.map(|text| text.to_string_lossy().into_owned()))
    };
    // An image has no log (measured on an H200, driver 580).
    let nothing = [String::new(), String::new()];
    assert_eq!(add(2), (CUresult::CUDA_ERROR_INVALID_VALUE, nothing));
    let (code, [of_link, of_image]) = add(0);
    assert_eq!(code, CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(of_link.contains("line 5; error: nonsense"), "{of_link}");
    assert_eq!(of_image, "");
    ok!(client, cuLinkDestroy(link));
    client.finish();
}

#[test]
fn a_linked_cubin_loads_and_names_its_kernels() {
    let client = Client::new("h200@13.0");
    let image = linked(&client, TWO);
    assert!(image.starts_with(b"\x7fELF"));
    let mut module = ptr::null_mut();
    ok!(client, cuModuleLoadData(&mut module, image.as_ptr().cast()));
    let mut count = 0;
    ok!(client, cuModuleGetFunctionCount(&mut count, module));
    assert_eq!(count, 2);
    let mut functions = [ptr::null_mut(); 3];
    ok!(
        client,
        cuModuleEnumerateFunctions(functions.as_mut_ptr(), 3, module)
    );
    assert!(functions[2].is_null());
    let names = functions[..2].iter().map(|function| {
        let mut name = ptr::null();
        ok!(client, cuFuncGetName(&mut name, *function));
        // SAFETY: the module is loaded.
        unsafe { CStr::from_ptr(name) }.to_owned()
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, [c"first".to_owned(), c"second".to_owned()]);
    // Its parameters are known, too; with fewer, the launch would read beyond the array.
    let (mut a, mut b) = (0_u64, 0_u32);
    let mut args: [*mut c_void; 2] = [(&raw mut a).cast(), (&raw mut b).cast()];
    let mut second = ptr::null_mut();
    ok!(
        client,
        cuModuleGetFunction(&mut second, module, c"second".as_ptr())
    );
    assert_eq!(client.launch(second, 1, ptr::null_mut(), &mut args), OK);
    ok!(client, cuModuleUnload(module));
    client.finish();
}

#[test]
fn machine_code_is_for_one_major_capability() {
    let image = linked(&Client::new("h200@13.0"), TWO);
    let other = Client::new("rtx5090@13.0");
    let mut module = ptr::null_mut();
    let code = call!(other, cuModuleLoadData(&mut module, image.as_ptr().cast()));
    assert_eq!(code, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    other.finish();
}

/// Clusters of more than 8 blocks need a function that allows them. How many fit is not measured.
#[test]
fn large_clusters_are_to_be_allowed() {
    let client = Client::new("h200@13.0");
    let (module, function) = client.function(c"custom");
    let mut attribute = CUlaunchAttribute {
        id: CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        ..Default::default()
    };
    attribute.value.clusterDim = CUlaunchAttributeValue_union__bindgen_ty_1 { x: 16, y: 1, z: 1 };
    let config = CUlaunchConfig {
        gridDimX: 16,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        attrs: &mut attribute,
        numAttrs: 1,
        ..Default::default()
    };
    let mut address = 0_u64;
    let mut args: [*mut c_void; 1] = [(&raw mut address).cast()];
    let mut go = || {
        let (params, none) = (args.as_mut_ptr(), ptr::null_mut());
        call!(client, cuLaunchKernelEx(&config, function, params, none))
    };
    let largest = || {
        let mut size = 0;
        ok!(
            client,
            cuOccupancyMaxPotentialClusterSize(&mut size, function, &config)
        );
        size
    };
    assert_eq!(go(), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
    assert_eq!(largest(), 8);
    let allowed = CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
    ok!(client, cuFuncSetAttribute(function, allowed, 1));
    assert_eq!(go(), OK);
    assert_eq!(largest(), 16);
    ok!(client, cuModuleUnload(module));
    client.finish();
}

#[test]
fn one_kernel_is_linked_once() {
    let client = Client::new("h200@13.0");
    let (none, mut link) = (ptr::null_mut(), ptr::null_mut());
    ok!(client, cuLinkCreate_v2(0, none, ptr::null_mut(), &mut link));
    for expected in [OK, CUresult::CUDA_ERROR_INVALID_SOURCE] {
        assert_eq!(add(&client, link, TWO), expected);
    }
    ok!(client, cuLinkDestroy(link));
    client.finish();
}

#[test]
fn functions_are_enumerated_as_far_as_there_is_room() {
    let client = Client::new("h200@13.0");
    let mut module = ptr::null_mut();
    ok!(client, cuModuleLoadData(&mut module, TWO.as_ptr().cast()));
    let mut functions = [ptr::null_mut(); 2];
    let to = functions.as_mut_ptr();
    ok!(client, cuModuleEnumerateFunctions(to, 1, module));
    assert!(!functions[0].is_null() && functions[1].is_null());
    ok!(client, cuModuleUnload(module));
    client.finish();
}

/// Machine code runs on its own and later minor versions of the same major compute capability.
#[test]
fn a_cubin_is_for_later_minor_capabilities() {
    let load = |of: &str, on: &str| {
        let image = linked(&Client::new(of), TWO);
        let (client, mut module) = (Client::new(on), ptr::null_mut());
        call!(client, cuModuleLoadData(&mut module, image.as_ptr().cast()))
    };
    assert_eq!(load("a100@12.8", "rtx4090@12.8"), OK);
    assert_eq!(
        load("rtx4090@12.8", "a100@12.8"),
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
}

/// A kernel sees the cluster that its launch requests; more than 8 blocks only if its attribute allows them.
#[test]
fn clusters_are_told_and_allowed() {
    let client = Client::new("h200@13.0");
    client.sim.register_kernel("first", |launch| {
        assert_eq!(launch.cluster(), [16, 1, 1]);
    });
    let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
    ok!(client, cuModuleLoadData(&mut module, TWO.as_ptr().cast()));
    let name = c"first".as_ptr();
    ok!(client, cuModuleGetFunction(&mut function, module, name));
    let mut attribute = CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        ..Default::default()
    };
    attribute.value.clusterDim.x = 16;
    attribute.value.clusterDim.y = 1;
    attribute.value.clusterDim.z = 1;
    let config = CUlaunchConfig {
        gridDimX: 16,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        attrs: &mut attribute,
        numAttrs: 1,
        ..Default::default()
    };
    let allowed = CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
    let refused = CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE;
    for (value, expected) in [(0, refused), (1, OK), (0, refused)] {
        ok!(client, cuFuncSetAttribute(function, allowed, value));
        let (none, nothing) = (ptr::null_mut(), ptr::null_mut());
        let code = call!(client, cuLaunchKernelEx(&config, function, none, nothing));
        assert_eq!(code, expected, "{value}");
    }
    // If an assertion in the kernel failed, this would report a fault.
    ok!(client, cuCtxSynchronize());
    ok!(client, cuModuleUnload(module));
    client.finish();
}

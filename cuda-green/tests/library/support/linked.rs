//! A cubin of the crate's kernels, for the tests of this crate and the workspace's suite.

use std::ptr;

use cuda_green::{
    CudaDevice, kernels,
    sys::{CUjitInputType, CUresult},
};

/// The crate's kernels as a cubin of the device's own, by the driver's linker.
pub fn cubin(device: &CudaDevice) -> Vec<u8> {
    let api = device.driver().api();
    let primary = device.raw_primary_context().unwrap();
    let none = ptr::null_mut();
    let mut link = ptr::null_mut();
    let (mut image, mut size) = (ptr::null_mut(), 0);
    let ok = |result: Result<CUresult, _>| assert_eq!(result.unwrap(), CUresult::CUDA_SUCCESS);
    // SAFETY: the context is held by the device, all outputs are valid, the text is as long as said and ends
    // with a NUL, and the cubin is copied before the linker's state ends.
    unsafe {
        ok(api.cuCtxPushCurrent_v2(primary));
        ok(api.cuLinkCreate_v2(0, none, ptr::null_mut(), &mut link));
        let mut text = kernels::PTX.as_bytes().to_vec();
        text.push(0);
        let (kind, name) = (CUjitInputType::CU_JIT_INPUT_PTX, c"kernels".as_ptr());
        let data = text.as_mut_ptr().cast();
        ok(api.cuLinkAddData_v2(link, kind, data, text.len(), name, 0, none, ptr::null_mut()));
        ok(api.cuLinkComplete(link, &mut image, &mut size));
        let copy = std::slice::from_raw_parts(image.cast::<u8>(), size).to_vec();
        ok(api.cuLinkDestroy(link));
        ok(api.cuCtxPopCurrent_v2(&mut ptr::null_mut()));
        copy
    }
}

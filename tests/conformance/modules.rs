//! Modules: which images load, and what their functions are.

use std::{ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, said, say},
    images::{good_and_bad, image, more_good_and_bad, one_kernel},
};

pub const CASES: &[Case] = &[
    Case::new("modules/images", images),
    Case::new("modules/functions", functions),
    Case::new("modules/wrong_handles", wrong_handles).rough(),
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

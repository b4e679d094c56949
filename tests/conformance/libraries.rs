//! Libraries, and what is known of functions and kernels.

use std::{ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, said, say},
    images::{good_and_bad, one_kernel},
};

pub const CASES: &[Case] = &[
    Case::new("libraries/images", images),
    Case::new("libraries/life", life),
    Case::new("functions/attributes", attributes),
    Case::new("functions/occupancy", occupancy),
];

fn load(gpu: &Gpu<'_>, image: &[u8]) -> Result<CUlibrary, CUresult> {
    assert_eq!(image.last(), Some(&0));
    let mut library = ptr::null_mut();
    let data = image.as_ptr().cast();
    let (options, values) = (ptr::null_mut(), ptr::null_mut());
    let (own, own_values) = (ptr::null_mut(), ptr::null_mut());
    call!(
        gpu,
        cuLibraryLoadData(&mut library, data, options, values, 0, own, own_values, 0)
    )
    .ok()?;
    Ok(library)
}

fn kernel(gpu: &Gpu<'_>, library: CUlibrary, name: &std::ffi::CStr) -> Result<CUkernel, CUresult> {
    let mut kernel = ptr::null_mut();
    call!(gpu, cuLibraryGetKernel(&mut kernel, library, name.as_ptr())).ok()?;
    Ok(kernel)
}

fn images(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (name, image) in good_and_bad() {
        for (place, library) in [
            ("", load(gpu, &image)),
            (" without a context", gpu.without(|| load(gpu, &image))),
        ] {
            seen.note(format!("{name}{place}"), said(&library));
            let Ok(library) = library else { continue };
            let found = kernel(gpu, library, c"k");
            seen.note(format!("{name}{place}: its kernel"), said(&found));
            if let Ok(kernel) = found {
                let mut function = ptr::null_mut();
                let code = call!(gpu, cuKernelGetFunction(&mut function, kernel));
                seen.code(format!("{name}{place}: its function"), code);
            }
            let mut module = ptr::null_mut();
            let code = call!(gpu, cuLibraryGetModule(&mut module, library));
            seen.code(format!("{name}{place}: its module"), code);
            must(call!(gpu, cuLibraryUnload(library)));
        }
    }
}

fn life(gpu: &Gpu<'_>, seen: &mut Seen) {
    let image = one_kernel();
    let library = load(gpu, &image).unwrap();
    let one = kernel(gpu, library, c"k");
    seen.note("there", said(&one));
    seen.note("the same again", one == kernel(gpu, library, c"k"));
    seen.note("not there", said(&kernel(gpu, library, c"nobody")));
    seen.note("no name", said(&kernel(gpu, library, c"")));
    let one = one.unwrap();
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    let inside = gpu.context(green).unwrap();
    let ask = |context| {
        gpu.within(context, || {
            let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
            let code = call!(gpu, cuLibraryGetModule(&mut module, library));
            let of_kernel = call!(gpu, cuKernelGetFunction(&mut function, one));
            (code, of_kernel, module, function)
        })
    };
    let (of_primary, of_green) = (ask(gpu.primary), ask(inside));
    seen.code("module in primary", of_primary.0);
    seen.code("module in green", of_green.0);
    seen.code("function in primary", of_primary.1);
    seen.code("function in green", of_green.1);
    seen.note("the same module in both", of_primary.2 == of_green.2);
    seen.note("the same function in both", of_primary.3 == of_green.3);
    seen.note("the same module again", ask(inside).2 == of_green.2);
    let function = gpu.function(of_primary.2, c"k");
    seen.note("the module's function", said(&function));
    seen.note("it is the kernel's", function == Ok(of_primary.3));
    let without = gpu.without(|| {
        let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
        [
            call!(gpu, cuLibraryGetModule(&mut module, library)),
            call!(gpu, cuKernelGetFunction(&mut function, one)),
        ]
    });
    seen.code("module without a context", without[0]);
    seen.code("function without a context", without[1]);
    let mut launch = |name: &str, function: CUfunction, stream: CUstream| {
        seen.code(name, gpu.launch(function, stream, 1, 1, &mut []));
        must(call!(gpu, cuStreamSynchronize(stream)));
    };
    launch("launch the function in green", of_primary.3, stream);
    launch("launch the kernel in green", one.cast(), stream);
    launch(
        "launch the kernel in the default stream",
        one.cast(),
        ptr::null_mut(),
    );
    gpu.close(stream);
    gpu.destroy(green);
    launch(
        "launch green's function after its end",
        of_green.3,
        ptr::null_mut(),
    );
    let mut module = ptr::null_mut();
    must(call!(gpu, cuFuncGetModule(&mut module, of_primary.3)));
    seen.note("the function's module", module == of_primary.2);
    seen.code("unload", call!(gpu, cuLibraryUnload(library)));
    let none = ptr::null_mut();
    let (options, values) = (ptr::null_mut(), ptr::null_mut());
    let data = image.as_ptr().cast();
    let code = call!(
        gpu,
        cuLibraryLoadData(
            none,
            data,
            options,
            values,
            0,
            ptr::null_mut(),
            ptr::null_mut(),
            0
        )
    );
    seen.code("load to nowhere", code);
}

fn attributes(gpu: &Gpu<'_>, seen: &mut Seen) {
    let image = one_kernel();
    let library = load(gpu, &image).unwrap();
    let kernel = kernel(gpu, library, c"k").unwrap();
    let mut function: CUfunction = ptr::null_mut();
    must(call!(gpu, cuKernelGetFunction(&mut function, kernel)));
    for attribute in 0..20 {
        let id = CUfunction_attribute_enum(attribute);
        let mut value = 4711;
        let code = call!(gpu, cuFuncGetAttribute(&mut value, id, function));
        seen.note(
            format!("{attribute} of the function"),
            format!("{} {value}", say(code)),
        );
        let mut value = 4711;
        let code = call!(
            gpu,
            cuKernelGetAttribute(&mut value, id, kernel, gpu.device)
        );
        seen.note(
            format!("{attribute} of the kernel"),
            format!("{} {value}", say(code)),
        );
    }
    // Those that can be set, and one that cannot.
    for (attribute, values) in [
        (
            8,
            [0, 48 << 10, 100 << 10, 227 << 10, 228 << 10, -1].as_slice(),
        ),
        (9, &[-2, -1, 0, 50, 100, 101]),
        (14, &[0, 1, 2]),
        (15, &[0, 1, 2, 3]),
        (0, &[512]),
        (4, &[16]),
    ] {
        let id = CUfunction_attribute_enum(attribute);
        for value in values {
            let code = call!(gpu, cuFuncSetAttribute(function, id, *value));
            let mut now = 4711;
            must(call!(gpu, cuFuncGetAttribute(&mut now, id, function)));
            seen.note(
                format!("{attribute} set to {value}"),
                format!("{} {now}", say(code)),
            );
            let mut now = 4711;
            let code = call!(gpu, cuKernelGetAttribute(&mut now, id, kernel, gpu.device));
            seen.note(
                format!("{attribute} set to {value}, of the kernel"),
                format!("{} {now}", say(code)),
            );
        }
    }
    let code = call!(
        gpu,
        cuKernelGetAttribute(&mut 0, CUfunction_attribute_enum(0), kernel, 1000)
    );
    seen.code("on no device", code);
    must(call!(gpu, cuLibraryUnload(library)));
}

fn occupancy(gpu: &Gpu<'_>, seen: &mut Seen) {
    let image = one_kernel();
    let mut module = ptr::null_mut();
    must(call!(
        gpu,
        cuModuleLoadData(&mut module, image.as_ptr().cast::<c_void>())
    ));
    let function = gpu.function(module, c"k").unwrap();
    for threads in [
        -1, 0, 1, 32, 33, 64, 96, 128, 256, 512, 768, 1024, 1025, 2048,
    ] {
        for shared in [
            0,
            1024,
            16 << 10,
            48 << 10,
            100 << 10,
            228 << 10,
            usize::MAX,
        ] {
            let mut blocks = 4711;
            let code = call!(
                gpu,
                cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, threads, shared)
            );
            let what = if code == OK {
                blocks.to_string()
            } else {
                say(code)
            };
            seen.note(format!("{threads} threads, {shared} bytes"), what);
        }
    }
    must(call!(gpu, cuModuleUnload(module)));
}

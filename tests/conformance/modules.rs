//! Modules: which images load, and what their functions are.

use std::{
    ffi::{CStr, c_void},
    ptr,
};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, said, say},
    images::{good_and_bad, image, more_good_and_bad, one_kernel},
};

pub const CASES: &[Case] = &[
    Case::new("modules/images", images),
    Case::new("modules/functions", functions),
    Case::new("modules/enumerated", enumerated),
    Case::new("modules/enumerated_wrongly", enumerated_wrongly).rough(),
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

/// The functions of a module, with room for more than there are.
fn enumerate(gpu: &Gpu<'_>, module: CUmodule, room: u32) -> Result<Vec<CUfunction>, CUresult> {
    let mut functions = vec![ptr::null_mut(); room as usize + 2];
    let to = functions.as_mut_ptr();
    call!(gpu, cuModuleEnumerateFunctions(to, room, module)).ok()?;
    Ok(functions)
}

fn name_of(gpu: &Gpu<'_>, function: CUfunction) -> Result<String, CUresult> {
    let mut name = ptr::null();
    call!(gpu, cuFuncGetName(&mut name, function)).ok()?;
    // A string of the driver's, which lives as long as the module.
    let name = unsafe { CStr::from_ptr(name) };
    Ok(name.to_string_lossy().into_owned())
}

/// The names of a module's kernels, as the driver enumerates them.
pub fn names(gpu: &Gpu<'_>, module: CUmodule) -> Result<Vec<String>, CUresult> {
    let mut count = 0;
    call!(gpu, cuModuleGetFunctionCount(&mut count, module)).ok()?;
    let functions = enumerate(gpu, module, count)?;
    let functions = functions.into_iter().take(count as usize);
    functions.map(|function| name_of(gpu, function)).collect()
}

/// How many functions modules have, which, and with less and more room than that.
fn enumerated(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (what, kernels) in [
        ("none", ""),
        ("one", ".visible .entry k() { ret; }"),
        (
            "four",
            ".visible .entry dog() { ret; }\n.entry ape() { ret; }\n.visible .entry zebra(.param .u64 a) { ret; }\n\
             .visible .entry cat() { ret; }",
        ),
        (
            "a function that is no kernel",
            ".visible .func helper() { ret; }\n.visible .entry k() { ret; }",
        ),
    ] {
        let image = image(kernels);
        let mut module = ptr::null_mut();
        let data = image.as_ptr().cast();
        must(call!(gpu, cuModuleLoadData(&mut module, data)));
        let mut count = 4711;
        let code = call!(gpu, cuModuleGetFunctionCount(&mut count, module));
        seen.note(format!("{what}: count"), format!("{} {count}", say(code)));
        for room in [0, 1, count, count + 1] {
            let name = format!("{what}: room for {room}");
            // With room for as many as there are, and for one of one, twice.
            if seen.notes.contains_key(&name) {
                continue;
            }
            let found = enumerate(gpu, module, room).map(|functions| {
                let there = functions.into_iter().filter(|function| !function.is_null());
                let mut all: Vec<_> = there.map(|each| name_of(gpu, each).unwrap()).collect();
                // An H200 (driver 580) gives "dog ape zebra cat", which is in no order that is said anywhere.
                all.sort();
                if room < count {
                    all.len().to_string()
                } else {
                    all.join(" ")
                }
            });
            seen.note(name, found.unwrap_or_else(say));
        }
        if count == 4 {
            let all = enumerate(gpu, module, count).unwrap();
            let cat = gpu.function(module, c"cat").unwrap();
            seen.note("the same handles", all.contains(&cat));
            seen.note("each once", {
                let mut each = all[..4].to_vec();
                each.sort();
                each.dedup();
                each.len()
            });
            let found = gpu.without(|| names(gpu, module));
            seen.note(
                "without a context",
                found.map_or_else(say, |mut all| {
                    all.sort();
                    all.join(" ")
                }),
            );
        }
        must(call!(gpu, cuModuleUnload(module)));
    }
    let image = one_kernel();
    let (mut module, mut library) = (ptr::null_mut(), ptr::null_mut());
    let data = image.as_ptr().cast();
    let (options, values) = (ptr::null_mut(), ptr::null_mut());
    let (own, own_values) = (ptr::null_mut(), ptr::null_mut());
    must(call!(
        gpu,
        cuLibraryLoadData(&mut library, data, options, values, 0, own, own_values, 0)
    ));
    must(call!(gpu, cuLibraryGetModule(&mut module, library)));
    let found = names(gpu, module);
    seen.note("of a library", found.map_or_else(say, |all| all.join(" ")));
    must(call!(gpu, cuLibraryUnload(library)));
}

fn enumerated_wrongly(gpu: &Gpu<'_>, seen: &mut Seen) {
    let image = one_kernel();
    let mut module = ptr::null_mut();
    let data = image.as_ptr().cast();
    must(call!(gpu, cuModuleLoadData(&mut module, data)));
    let function = gpu.function(module, c"k").unwrap();
    let nowhere = ptr::null_mut();
    let code = call!(gpu, cuModuleGetFunctionCount(ptr::null_mut(), module));
    seen.code("count to nowhere", code);
    let code = call!(gpu, cuModuleEnumerateFunctions(nowhere, 1, module));
    seen.code("enumerate to nowhere", code);
    let code = call!(gpu, cuModuleEnumerateFunctions(nowhere, 0, module));
    seen.code("enumerate none to nowhere", code);
    let code = call!(gpu, cuFuncGetName(ptr::null_mut(), function));
    seen.code("name to nowhere", code);
    let mut count = 0;
    let code = call!(gpu, cuModuleGetFunctionCount(&mut count, ptr::null_mut()));
    seen.code("count of null", code);
    let code = enumerate(gpu, ptr::null_mut(), 1);
    seen.note("enumerate null", said(&code));
    // A null in both places is told by the function's code or the name's.
    let mut name = ptr::null();
    let code = call!(gpu, cuFuncGetName(&mut name, ptr::null_mut()));
    seen.code("name of null", code);
    must(call!(gpu, cuModuleUnload(module)));
}

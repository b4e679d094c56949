//! Linking: PTX becomes a cubin of the device's own, which loads as a module.

use std::{
    ffi::{CStr, CString, c_void},
    ptr,
};

use cuda_green::kernels;
use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, SmIdsArgs, call, must, say},
    images::{good_and_bad, image, more_good_and_bad, one_kernel},
    modules::names,
};

pub const CASES: &[Case] = &[
    Case::new("links/a_cubin", cubin),
    Case::new("links/several_images", several),
    Case::new("links/one_kernel_twice", twice),
    Case::new("links/wrong_images", wrong_images),
    Case::new("links/contexts", contexts),
    Case::new("links/wrong_arguments", wrong_arguments).rough(),
    Case::new("links/no_link", no_link).rough(),
    Case::new("links/nothing_added", nothing_added).rough(),
];

const PTX: CUjitInputType = CUjitInputType::CU_JIT_INPUT_PTX;

fn create(gpu: &Gpu<'_>) -> Result<CUlinkState, CUresult> {
    let (none, mut link) = (ptr::null_mut(), ptr::null_mut());
    call!(gpu, cuLinkCreate_v2(0, none, ptr::null_mut(), &mut link)).ok()?;
    Ok(link)
}

fn add(gpu: &Gpu<'_>, link: CUlinkState, image: &[u8], name: &CStr) -> CUresult {
    let (data, none) = (image.as_ptr().cast_mut().cast(), ptr::null_mut());
    call!(
        gpu,
        cuLinkAddData_v2(
            link,
            PTX,
            data,
            image.len(),
            name.as_ptr(),
            0,
            none,
            ptr::null_mut()
        )
    )
}

/// The cubin, which lives as long as the link.
fn complete(gpu: &Gpu<'_>, link: CUlinkState) -> Result<(*mut c_void, usize), CUresult> {
    let (mut cubin, mut size) = (ptr::null_mut(), 0);
    call!(gpu, cuLinkComplete(link, &mut cubin, &mut size)).ok()?;
    Ok((cubin, size))
}

/// The crate's kernels, linked, loaded back and launched, as a module and as a library.
fn cubin(gpu: &Gpu<'_>, seen: &mut Seen) {
    let link = create(gpu).unwrap();
    let text = CString::new(kernels::PTX).unwrap();
    let code = add(gpu, link, text.as_bytes_with_nul(), c"kernels");
    seen.code("add", code);
    let first = complete(gpu, link);
    seen.code("complete", first.err().unwrap_or(OK));
    let (image, size) = first.unwrap();
    let bytes = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), size) };
    seen.note("an ELF file", bytes.starts_with(b"\x7fELF"));
    let mut module = ptr::null_mut();
    let code = call!(gpu, cuModuleLoadData(&mut module, image));
    seen.code("load", code);
    let mut library = ptr::null_mut();
    let (options, values) = (ptr::null_mut(), ptr::null_mut());
    let (own, own_values) = (ptr::null_mut(), ptr::null_mut());
    let code = call!(
        gpu,
        cuLibraryLoadData(&mut library, image, options, values, 0, own, own_values, 0)
    );
    seen.code("load as a library", code);
    seen.code("unload the library", call!(gpu, cuLibraryUnload(library)));
    // What was loaded needs the link no more.
    seen.code("destroy", call!(gpu, cuLinkDestroy(link)));
    let mut found = names(gpu, module).unwrap();
    found.sort();
    seen.note("kernels", found);
    let kernel = gpu.function(module, c"cuda_green_sm_ids").unwrap();
    let stream = gpu.stream_here();
    let counters = gpu.alloc(4096).unwrap();
    must(call!(gpu, cuMemsetD8Async(counters, 0, 4096, stream)));
    let mut args = SmIdsArgs::new(counters, 1024, 0);
    seen.code(
        "launch",
        gpu.launch(kernel, stream, 100, 64, &mut args.pointers()),
    );
    let mut counts = [0_u32; 1024];
    let to = counts.as_mut_ptr().cast();
    must(call!(gpu, cuMemcpyDtoHAsync_v2(to, counters, 4096, stream)));
    must(call!(gpu, cuStreamSynchronize(stream)));
    seen.note("blocks", counts.iter().sum::<u32>());
    gpu.close(stream);
    must(call!(gpu, cuMemFree_v2(counters)));
    must(call!(gpu, cuModuleUnload(module)));
}

fn several(gpu: &Gpu<'_>, seen: &mut Seen) {
    let link = create(gpu).unwrap();
    for (name, kernels) in [
        (
            "zebra and ape",
            ".entry zebra() { ret; }\n.entry ape() { ret; }",
        ),
        ("no kernels", ""),
        ("cat", ".visible .entry cat(.param .u64 a) { ret; }"),
    ] {
        seen.code(name, add(gpu, link, &image(kernels), c"part"));
    }
    // The length may leave the NUL out.
    let mouse = image(".visible .entry mouse() { ret; }");
    let code = add(gpu, link, &mouse[..mouse.len() - 1], c"mouse");
    seen.code("without its NUL", code);
    let made = complete(gpu, link);
    seen.code("complete", made.err().unwrap_or(OK));
    if let Ok((image, _)) = made {
        let mut module = ptr::null_mut();
        seen.code("load", call!(gpu, cuModuleLoadData(&mut module, image)));
        let mut found = names(gpu, module).unwrap();
        found.sort();
        seen.note("kernels", found);
        must(call!(gpu, cuModuleUnload(module)));
    }
    must(call!(gpu, cuLinkDestroy(link)));
}

/// One name in two images: which step refuses it, and with what.
fn twice(gpu: &Gpu<'_>, seen: &mut Seen) {
    for (name, second) in [
        ("the same text", one_kernel()),
        (
            "another text",
            image(".visible .entry k(.param .u32 a) { ret; }"),
        ),
        ("not visible", image(".entry k() { ret; }")),
    ] {
        let link = create(gpu).unwrap();
        must(add(gpu, link, &one_kernel(), c"one"));
        let added = add(gpu, link, &second, c"two");
        seen.code(format!("{name}: add"), added);
        // A link that refused something is not asked for its cubin: the header says nothing of it.
        if added == OK {
            let code = complete(gpu, link).err().unwrap_or(OK);
            seen.code(format!("{name}: complete"), code);
        }
        seen.code(format!("{name}: destroy"), call!(gpu, cuLinkDestroy(link)));
    }
}

/// Each image that is in order or not, with a log that was given when the link was made, and with one that comes with
/// the image.
fn wrong_images(gpu: &Gpu<'_>, seen: &mut Seen) {
    let mut options = [
        CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let options = options.as_mut_ptr();
    for (name, image) in good_and_bad().into_iter().chain(more_good_and_bad()) {
        for (whose, of_link) in [("the link", true), ("the image", false)] {
            let mut log = vec![0_u8; 1024];
            let mut values = [
                log.as_mut_ptr().cast(),
                ptr::without_provenance_mut::<c_void>(log.len()),
            ];
            let values = values.as_mut_ptr();
            let (with_link, with_image) = if of_link { (2, 0) } else { (0, 2) };
            let mut link = ptr::null_mut();
            let code = call!(gpu, cuLinkCreate_v2(with_link, options, values, &mut link));
            must(code);
            let (data, len) = (image.as_ptr().cast_mut().cast(), image.len());
            let called = c"image".as_ptr();
            let code = call!(
                gpu,
                cuLinkAddData_v2(link, PTX, data, len, called, with_image, options, values)
            );
            must(call!(gpu, cuLinkDestroy(link)));
            let said = if log[0] == 0 { "no log" } else { "a log" };
            let note = format!("{name}, with a log of {whose}");
            seen.note(note, format!("{} {said}", say(code)));
        }
    }
}

/// A link is of the context that is current when it is made; its cubin is for the device.
fn contexts(gpu: &Gpu<'_>, seen: &mut Seen) {
    let code = gpu.without(|| create(gpu)).err().unwrap_or(OK);
    seen.code("create without a context", code);
    let green = gpu.quarter();
    let link = gpu.within(gpu.context(green).unwrap(), || create(gpu));
    seen.code("create in a green context", link.err().unwrap_or(OK));
    let link = link.unwrap();
    gpu.destroy(green);
    seen.code("add after its end", add(gpu, link, &one_kernel(), c"one"));
    let made = gpu.without(|| complete(gpu, link));
    seen.code("complete without a context", made.err().unwrap_or(OK));
    if let Ok((image, _)) = made {
        let mut module = ptr::null_mut();
        seen.code("load", call!(gpu, cuModuleLoadData(&mut module, image)));
        must(call!(gpu, cuModuleUnload(module)));
    }
    let code = gpu.without(|| call!(gpu, cuLinkDestroy(link)));
    seen.code("destroy without a context", code);
}

/// Null where something must be, and what comes after the end.
fn wrong_arguments(gpu: &Gpu<'_>, seen: &mut Seen) {
    let (none, nothing) = (ptr::null_mut(), ptr::null_mut());
    let code = call!(gpu, cuLinkCreate_v2(0, none, nothing, ptr::null_mut()));
    seen.code("create to nowhere", code);
    let link = create(gpu).unwrap();
    let data = ptr::null_mut();
    let code = call!(
        gpu,
        cuLinkAddData_v2(link, PTX, data, 0, c"none".as_ptr(), 0, none, nothing)
    );
    seen.code("add null", code);
    let mut one = one_kernel();
    let data = one.as_mut_ptr().cast::<c_void>();
    let code = call!(
        gpu,
        cuLinkAddData_v2(link, PTX, data, one.len(), ptr::null(), 0, none, nothing)
    );
    seen.code("add without a name", code);
    let kind = CUjitInputType(99);
    let name = c"unknown".as_ptr();
    let code = call!(
        gpu,
        cuLinkAddData_v2(link, kind, data, one.len(), name, 0, none, nothing)
    );
    seen.code("add of an unknown kind", code);
    let mut size = 0;
    let code = call!(gpu, cuLinkComplete(link, ptr::null_mut(), &mut size));
    seen.code("complete to nowhere", code);
    let mut cubin = ptr::null_mut();
    let code = call!(gpu, cuLinkComplete(link, &mut cubin, ptr::null_mut()));
    seen.code("complete without a size", code);
    let again = complete(gpu, link);
    seen.code("complete again", again.err().unwrap_or(OK));
    let other = image(".visible .entry other() { ret; }");
    let code = add(gpu, link, &other, c"other");
    seen.code("add after the end", code);
    seen.code("destroy", call!(gpu, cuLinkDestroy(link)));
}

/// Null in the place of a link.
fn no_link(gpu: &Gpu<'_>, seen: &mut Seen) {
    seen.code("destroy null", call!(gpu, cuLinkDestroy(ptr::null_mut())));
    let code = complete(gpu, ptr::null_mut()).err().unwrap_or(OK);
    seen.code("complete null", code);
    let code = add(gpu, ptr::null_mut(), &one_kernel(), c"one");
    seen.code("add to null", code);
}

fn nothing_added(gpu: &Gpu<'_>, seen: &mut Seen) {
    let link = create(gpu).unwrap();
    let made = complete(gpu, link);
    seen.code("complete", made.err().unwrap_or(OK));
    seen.note("a cubin", made.is_ok_and(|(image, _)| !image.is_null()));
    seen.code("destroy", call!(gpu, cuLinkDestroy(link)));
}

//! Green contexts: creation, ids, and each thread's stack of current contexts.

use std::ptr;

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, call, count, must, said, say},
};

pub const CASES: &[Case] = &[
    Case::new("green/create_flags", create_flags),
    Case::new("green/descriptors", descriptors),
    Case::new("green/ids", ids).since(13, 0),
    Case::new("green/memory", memory),
    Case::new("green/many", many),
    Case::new("green/wrong_arguments", wrong_arguments).rough(),
    Case::new("stack/push_pop_set", push_pop_set),
    Case::new("stack/current_context", current_context),
    Case::new("stack/threads", threads),
    Case::new("stack/destroyed_while_current", destroyed_while_current).rough(),
    Case::new("stack/wrong_handles", wrong_handles).rough(),
];

fn create_flags(gpu: &Gpu<'_>, seen: &mut Seen) {
    let descriptor = gpu.descriptor(&[gpu.whole()]).unwrap();
    for flags in [0, 1, 2, 3, 4, 5, 0x10, 0x8000_0001] {
        let mut green = ptr::null_mut();
        let code = call!(
            gpu,
            cuGreenCtxCreate(&mut green, descriptor, gpu.device, flags)
        );
        seen.code(format!("flags {flags:#x}"), code);
        if code == crate::gpu::OK {
            gpu.destroy(green);
        }
    }
    for device in [-1, 1000] {
        let mut green = ptr::null_mut();
        let code = call!(gpu, cuGreenCtxCreate(&mut green, descriptor, device, 1));
        seen.code(format!("device {device}"), code);
    }
}

/// One descriptor, many contexts, also after the first is gone.
fn descriptors(gpu: &Gpu<'_>, seen: &mut Seen) {
    let split = gpu.split(&gpu.whole(), 1, 0, 8).unwrap();
    let descriptor = gpu.descriptor(&split.groups).unwrap();
    let make = || {
        let mut green = ptr::null_mut();
        call!(gpu, cuGreenCtxCreate(&mut green, descriptor, gpu.device, 1))
            .ok()
            .map(|()| green)
    };
    let (one, two) = (make(), make());
    seen.note("one", said(&one));
    seen.note("two", said(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    let sms = [one, two].map(|green| gpu.sms_of(green));
    seen.note("same SMs", sms[0] == sms[1]);
    seen.note("same handle", one == two);
    gpu.destroy(one);
    let three = make();
    seen.note("after the first is gone", said(&three));
    gpu.destroy(two);
    gpu.destroy(three.unwrap());
    let context = gpu.quarter();
    let (a, b) = (gpu.context(context).unwrap(), gpu.context(context).unwrap());
    seen.note("context is the same each time", a == b);
    seen.note("context is the green context's handle", a.cast() == context);
    gpu.destroy(context);
}

fn ids(gpu: &Gpu<'_>, seen: &mut Seen) {
    let greens: [CUgreenCtx; 3] = gpu.quarters();
    let mut ids = [0_u64; 3];
    for (index, green) in greens.into_iter().enumerate() {
        let code = call!(gpu, cuGreenCtxGetId(green, &mut ids[index]));
        seen.code(format!("id {index}"), code);
    }
    seen.note("distinct", ids[0] != ids[1] && ids[1] != ids[2]);
    seen.note("steps", [ids[1] - ids[0], ids[2] - ids[1]]);
    let mut again = 0;
    must(call!(gpu, cuGreenCtxGetId(greens[0], &mut again)));
    seen.note("stays", again == ids[0]);
    let context = gpu.context(greens[0]).unwrap();
    let mut of_current = 0;
    let code = gpu.within(context, || {
        call!(gpu, cuGreenCtxGetId(ptr::null_mut(), &mut of_current))
    });
    seen.note(
        "of the current one",
        format!("{} {}", say(code), of_current == ids[0]),
    );
    let code = call!(gpu, cuGreenCtxGetId(ptr::null_mut(), &mut of_current));
    seen.code("of none with the primary current", code);
    gpu.destroy(greens[0]);
    let fresh = gpu.quarter();
    let mut id = 0;
    must(call!(gpu, cuGreenCtxGetId(fresh, &mut id)));
    seen.note("never given again", !ids.contains(&id));
    gpu.destroy(fresh);
    gpu.destroy(greens[1]);
    gpu.destroy(greens[2]);
}

/// Device memory that a context takes, over several.
fn memory(gpu: &Gpu<'_>, seen: &mut Seen) {
    let free = || {
        let (mut free, mut total) = (0, 0);
        must(call!(gpu, cuMemGetInfo_v2(&mut free, &mut total)));
        free
    };
    // The first of a process may take more.
    let split = gpu.split(&gpu.whole(), 1, 0, 8).unwrap();
    gpu.destroy(gpu.green(&split.groups).unwrap());
    let before = free();
    let greens: Vec<_> = (0..8).map(|_| gpu.green(&split.groups).unwrap()).collect();
    seen.note("MiB for eight", before.saturating_sub(free()) >> 20);
    for green in greens {
        gpu.destroy(green);
    }
    seen.note("MiB still taken after", before.saturating_sub(free()) >> 20);
}

/// Contexts over the same SMs, many at once.
fn many(gpu: &Gpu<'_>, seen: &mut Seen) {
    let split = gpu.split(&gpu.whole(), 1, 0, 8).unwrap();
    let greens: Vec<_> = (0..64)
        .map_while(|_| gpu.green(&split.groups).ok())
        .collect();
    seen.note("of 64", greens.len());
    for green in greens {
        gpu.destroy(green);
    }
}

fn wrong_arguments(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let mut resource = CUdevResource::default();
    let mut made = ptr::null_mut();
    let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
    let (sm, null) = (crate::gpu::SM, ptr::null_mut());
    let event = gpu.event(2);
    let descriptor = gpu.descriptor(&[gpu.whole()]).unwrap();
    let code = call!(gpu, cuGreenCtxCreate(null, descriptor, gpu.device, 1));
    seen.code("create to nowhere", code);
    let code = call!(
        gpu,
        cuGreenCtxCreate(&mut made, ptr::null_mut(), gpu.device, 1)
    );
    seen.code("create from no descriptor", code);
    seen.code(
        "destroy null",
        call!(gpu, cuGreenCtxDestroy(ptr::null_mut())),
    );
    let code = call!(gpu, cuCtxFromGreenCtx(&mut context, ptr::null_mut()));
    seen.code("context of null", code);
    let code = call!(gpu, cuCtxFromGreenCtx(ptr::null_mut(), green));
    seen.code("context to nowhere", code);
    let code = call!(
        gpu,
        cuGreenCtxGetDevResource(ptr::null_mut(), &mut resource, sm)
    );
    seen.code("resource of null", code);
    let code = call!(gpu, cuCtxGetDevResource(ptr::null_mut(), &mut resource, sm));
    seen.code("resource of no context", code);
    let code = call!(
        gpu,
        cuGreenCtxStreamCreate(&mut stream, ptr::null_mut(), 1, 0)
    );
    seen.code("stream of null", code);
    let code = call!(gpu, cuGreenCtxStreamCreate(ptr::null_mut(), green, 1, 0));
    seen.code("stream to nowhere", code);
    let code = call!(gpu, cuGreenCtxRecordEvent(ptr::null_mut(), event));
    seen.code("record of null", code);
    let code = call!(gpu, cuGreenCtxWaitEvent(ptr::null_mut(), event));
    seen.code("wait of null", code);
    let code = call!(gpu, cuGreenCtxRecordEvent(green, ptr::null_mut()));
    seen.code("record of no event", code);
    let code = call!(gpu, cuGreenCtxWaitEvent(green, ptr::null_mut()));
    seen.code("wait for no event", code);
    must(call!(gpu, cuGreenCtxDestroy(green)));
    seen.code("destroy twice", call!(gpu, cuGreenCtxDestroy(green)));
    let code = call!(gpu, cuCtxFromGreenCtx(&mut context, green));
    seen.code("context of a destroyed one", code);
    let code = call!(gpu, cuGreenCtxGetDevResource(green, &mut resource, sm));
    seen.code("resource of a destroyed one", code);
    let code = call!(gpu, cuGreenCtxStreamCreate(&mut stream, green, 1, 0));
    seen.code("stream of a destroyed one", code);
    let code = call!(gpu, cuGreenCtxRecordEvent(green, event));
    seen.code("record of a destroyed one", code);
}

fn push_pop_set(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap();
    let now = || gpu.name_of(gpu.current() as CUcontext, green);
    let mut popped = ptr::null_mut();
    seen.note("start", now());
    seen.code("push green", call!(gpu, cuCtxPushCurrent_v2(context)));
    seen.note("then", now());
    seen.code("push primary", call!(gpu, cuCtxPushCurrent_v2(gpu.primary)));
    seen.note("then on top", now());
    seen.code("set green", call!(gpu, cuCtxSetCurrent(context)));
    seen.note("then set", now());
    seen.code("pop", call!(gpu, cuCtxPopCurrent_v2(&mut popped)));
    seen.note("popped", gpu.name_of(popped, green));
    seen.note("then popped", now());
    seen.code("set null", call!(gpu, cuCtxSetCurrent(ptr::null_mut())));
    seen.note("then null", now());
    seen.code(
        "pop to nowhere",
        call!(gpu, cuCtxPopCurrent_v2(ptr::null_mut())),
    );
    seen.note("then none", now());
    popped = ptr::null_mut();
    seen.code(
        "pop of nothing",
        call!(gpu, cuCtxPopCurrent_v2(&mut popped)),
    );
    seen.code(
        "set null of nothing",
        call!(gpu, cuCtxSetCurrent(ptr::null_mut())),
    );
    seen.code(
        "push null",
        call!(gpu, cuCtxPushCurrent_v2(ptr::null_mut())),
    );
    seen.note("then after null", now());
    seen.code("set of nothing", call!(gpu, cuCtxSetCurrent(context)));
    seen.note("then set first", now());
    seen.code("push the same", call!(gpu, cuCtxPushCurrent_v2(context)));
    seen.code("pop the same", call!(gpu, cuCtxPopCurrent_v2(&mut popped)));
    seen.note("then the same", now());
    must(call!(gpu, cuCtxPopCurrent_v2(&mut popped)));
    seen.note("at the end", now());
    must(call!(gpu, cuCtxSetCurrent(gpu.primary)));
    gpu.destroy(green);
}

/// With a green context current: what is asked of it, and what is made in it.
fn current_context(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap();
    gpu.within(context, || {
        let (mut device, mut least, mut greatest) = (-1, 1, 1);
        let code = call!(gpu, cuCtxGetDevice(&mut device));
        seen.note("device", format!("{} {}", say(code), device == gpu.device));
        let code = call!(gpu, cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
        seen.note("priorities", format!("{} {least} {greatest}", say(code)));
        seen.code("synchronize", call!(gpu, cuCtxSynchronize()));
        let (mut free, mut total) = (0, 0);
        seen.code("memory", call!(gpu, cuMemGetInfo_v2(&mut free, &mut total)));
        for (name, stream) in [("null", 0), ("legacy", 1), ("per thread", 2)] {
            let stream: CUstream = ptr::without_provenance_mut(stream);
            let sms = gpu.sms_seen(stream).map(|sms| sms.len());
            seen.note(format!("SMs of the {name} stream"), sms.map_err(say));
        }
        let mut resource = CUdevResource::default();
        let code = call!(
            gpu,
            cuCtxGetDevResource(ptr::null_mut(), &mut resource, crate::gpu::SM)
        );
        seen.note(
            "resource of null",
            format!("{} {}", say(code), count(&resource)),
        );
    });
    for (name, stream) in [("null", 0), ("legacy", 1), ("per thread", 2)] {
        let stream: CUstream = ptr::without_provenance_mut(stream);
        let sms = gpu.sms_seen(stream).map(|sms| sms.len());
        seen.note(
            format!("SMs of the primary's {name} stream"),
            sms.map_err(say),
        );
    }
    gpu.destroy(green);
}

/// One green context current to several threads at once.
fn threads(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap() as usize;
    let api = gpu.api;
    let codes = gpu.within(context as CUcontext, || {
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let mut found = ptr::null_mut();
                let codes = unsafe {
                    [
                        api.cuCtxGetCurrent(&mut found).unwrap(),
                        api.cuCtxPushCurrent_v2(context as CUcontext).unwrap(),
                        api.cuCtxSynchronize().unwrap(),
                        api.cuCtxPopCurrent_v2(&mut ptr::null_mut()).unwrap(),
                        api.cuCtxPopCurrent_v2(&mut ptr::null_mut()).unwrap(),
                    ]
                };
                (codes.map(say), found.is_null())
            });
            thread.join().unwrap()
        })
    });
    seen.note("get push synchronize pop pop", codes.0);
    seen.note("nothing current at first", codes.1);
    gpu.destroy(green);
}

/// A dangling current context: what still works with it.
fn destroyed_while_current(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap();
    must(call!(gpu, cuCtxPushCurrent_v2(context)));
    seen.code("destroy", call!(gpu, cuGreenCtxDestroy(green)));
    seen.note("still current", gpu.current() == context as usize);
    let (mut device, mut least, mut greatest) = (-1, 1, 1);
    seen.code("pop", call!(gpu, cuCtxPopCurrent_v2(&mut ptr::null_mut())));
    seen.code("push again", call!(gpu, cuCtxPushCurrent_v2(context)));
    seen.code("set again", call!(gpu, cuCtxSetCurrent(context)));
    let fresh = gpu.quarter();
    let context = gpu.context(fresh).unwrap();
    must(call!(gpu, cuCtxPushCurrent_v2(context)));
    must(call!(gpu, cuGreenCtxDestroy(fresh)));
    let (mut free, mut total) = (0_usize, 0_usize);
    let (mut address, mut stream, mut event) = (0, ptr::null_mut(), ptr::null_mut());
    seen.code("device", call!(gpu, cuCtxGetDevice(&mut device)));
    seen.code(
        "priorities",
        call!(gpu, cuCtxGetStreamPriorityRange(&mut least, &mut greatest)),
    );
    seen.code("synchronize", call!(gpu, cuCtxSynchronize()));
    seen.code("info", call!(gpu, cuMemGetInfo_v2(&mut free, &mut total)));
    seen.code("alloc", call!(gpu, cuMemAlloc_v2(&mut address, 64)));
    let code = call!(gpu, cuStreamCreateWithPriority(&mut stream, 1, 0));
    seen.code("stream", code);
    seen.code("event", call!(gpu, cuEventCreate(&mut event, 2)));
    seen.code("launch", gpu.launch_empty(ptr::null_mut()));
    seen.code("query", call!(gpu, cuStreamQuery(ptr::null_mut())));
    seen.code("push primary", call!(gpu, cuCtxPushCurrent_v2(gpu.primary)));
    seen.code(
        "pop primary",
        call!(gpu, cuCtxPopCurrent_v2(&mut ptr::null_mut())),
    );
    seen.note("still current at last", gpu.current() == context as usize);
    seen.code("set primary", call!(gpu, cuCtxSetCurrent(gpu.primary)));
}

fn wrong_handles(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    seen.code(
        "push a green handle",
        call!(gpu, cuCtxPushCurrent_v2(green.cast())),
    );
    seen.note("then current", gpu.current() == gpu.primary as usize);
    seen.code(
        "set a green handle",
        call!(gpu, cuCtxSetCurrent(green.cast())),
    );
    let mut resource = CUdevResource::default();
    let code = call!(
        gpu,
        cuCtxGetDevResource(green.cast(), &mut resource, crate::gpu::SM)
    );
    seen.note(
        "resource of a green handle",
        format!("{} {}", say(code), count(&resource)),
    );
    let context = gpu.context(green).unwrap();
    let code = call!(
        gpu,
        cuGreenCtxGetDevResource(context.cast(), &mut resource, crate::gpu::SM)
    );
    seen.code("green resource of a context", code);
}

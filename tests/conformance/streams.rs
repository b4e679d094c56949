//! Streams: flags, priorities, whose they are, and what is left of one without its context.

use std::ptr;

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, NON_BLOCKING, OK, Seen, call, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("streams/green_flags_and_priorities", green_streams).since(12, 5),
    Case::new("streams/plain_flags_and_priorities", plain_streams),
    Case::new("streams/made_in_a_green_context", made_in_green),
    Case::new("streams/whose", whose).since(12, 5),
    Case::new("streams/default_ones", default_ones),
    Case::new("streams/resources", resources).since(13, 1),
    Case::new("streams/without_their_context", without_their_context),
    Case::new("streams/wrong_handles", wrong_handles).rough(),
];

const PRIORITIES: [i32; 9] = [i32::MIN, -100, -6, -5, -1, 0, 1, 5, i32::MAX];

/// Priority and flags as the stream tells them.
fn traits(gpu: &Gpu<'_>, stream: CUstream) -> String {
    let (mut priority, mut flags) = (99, 99);
    let one = call!(gpu, cuStreamGetPriority(stream, &mut priority));
    let two = call!(gpu, cuStreamGetFlags(stream, &mut flags));
    format!("{} {priority}, {} {flags}", say(one), say(two))
}

fn note(gpu: &Gpu<'_>, seen: &mut Seen, name: String, code: CUresult, stream: CUstream) {
    if code == OK {
        seen.note(name, traits(gpu, stream));
        gpu.close(stream);
    } else {
        seen.code(name, code);
    }
}

fn green_streams(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    for flags in [0, 1, 2, 3, 4, 0x10, 0x8000_0000] {
        let mut stream = ptr::null_mut();
        let code = call!(gpu, cuGreenCtxStreamCreate(&mut stream, green, flags, 0));
        note(gpu, seen, format!("flags {flags:#x}"), code, stream);
    }
    for priority in PRIORITIES {
        let mut stream = ptr::null_mut();
        let code = call!(
            gpu,
            cuGreenCtxStreamCreate(&mut stream, green, NON_BLOCKING, priority)
        );
        note(gpu, seen, format!("priority {priority}"), code, stream);
    }
    gpu.destroy(green);
}

fn plain_streams(gpu: &Gpu<'_>, seen: &mut Seen) {
    for flags in [0, 1, 2, 3, 4, 0x10, 0x8000_0000] {
        let mut stream = ptr::null_mut();
        let code = call!(gpu, cuStreamCreateWithPriority(&mut stream, flags, 0));
        note(gpu, seen, format!("flags {flags:#x}"), code, stream);
    }
    for priority in PRIORITIES {
        let mut stream = ptr::null_mut();
        let code = call!(
            gpu,
            cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, priority)
        );
        note(gpu, seen, format!("priority {priority}"), code, stream);
    }
}

/// By making the green context current: the way of 12.4.
fn made_in_green(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap();
    gpu.within(context, || {
        for (flags, priority) in [(0, 0), (1, 0), (1, -5), (1, -9), (2, 0)] {
            let mut stream = ptr::null_mut();
            let code = call!(
                gpu,
                cuStreamCreateWithPriority(&mut stream, flags, priority)
            );
            let name = format!("flags {flags} priority {priority}");
            if code == OK {
                let mut found = ptr::null_mut();
                must(call!(gpu, cuStreamGetGreenCtx(stream, &mut found)));
                seen.note(format!("{name} is green"), found == green);
                let sms = gpu.sms_seen(stream).map(|sms| sms.len());
                seen.note(format!("{name} SMs"), sms.map_err(say));
            }
            note(gpu, seen, name, code, stream);
        }
    });
    gpu.destroy(green);
}

fn whose(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap();
    let mut native = ptr::null_mut();
    must(call!(
        gpu,
        cuGreenCtxStreamCreate(&mut native, green, NON_BLOCKING, 0)
    ));
    let default = |number| ptr::without_provenance_mut(number);
    let streams = [
        ("green", native),
        ("pushed", gpu.stream(green)),
        ("plain", gpu.stream_here()),
        ("null", default(0)),
        ("legacy", default(1)),
        ("per thread", default(2)),
    ];
    for (current, top) in [("primary", gpu.primary), ("green", context)] {
        gpu.within(top, || {
            for (name, stream) in streams {
                let (mut of, mut of_green) = (ptr::null_mut(), ptr::null_mut());
                let code = call!(gpu, cuStreamGetCtx_v2(stream, &mut of, &mut of_green));
                let whose = format!(
                    "{}: {}, {}",
                    say(code),
                    gpu.name_of(of, green),
                    if of_green.is_null() {
                        "no green"
                    } else if of_green == green {
                        "its green"
                    } else {
                        "another green"
                    }
                );
                seen.note(format!("{name}, {current} current"), whose);
                let mut only = ptr::null_mut();
                let code = call!(gpu, cuStreamGetGreenCtx(stream, &mut only));
                seen.note(
                    format!("{name}, {current} current, green only"),
                    format!("{} {}", say(code), only == green),
                );
            }
        });
    }
    for (_, stream) in &streams[..3] {
        gpu.close(*stream);
    }
    gpu.destroy(green);
}

fn default_ones(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let context = gpu.context(green).unwrap();
    let mut ask = |current: &str| {
        for number in 0..3 {
            let stream: CUstream = ptr::without_provenance_mut(number);
            let name = |what| format!("{number}, {current} current: {what}");
            seen.note(name("traits"), traits(gpu, stream));
            seen.code(name("synchronize"), call!(gpu, cuStreamSynchronize(stream)));
            seen.code(name("query"), call!(gpu, cuStreamQuery(stream)));
            seen.code(name("launch"), gpu.launch_empty(stream));
            seen.code(name("wait"), call!(gpu, cuStreamSynchronize(stream)));
        }
    };
    ask("primary");
    gpu.within(context, || ask("green"));
    gpu.without(|| ask("nothing"));
    gpu.destroy(green);
}

fn resources(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    for kind in [0, 1, 1000, 10000] {
        let mut resource = CUdevResource::default();
        let kind = CUdevResourceType(kind);
        for (name, stream) in [("green", stream), ("null", ptr::null_mut())] {
            let code = call!(gpu, cuStreamGetDevResource(stream, &mut resource, kind));
            seen.code(format!("{name} {}", kind.0), code);
        }
    }
    gpu.close(stream);
    gpu.destroy(green);
}

/// The context is gone, its streams are still there.
fn without_their_context(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [green, other] = gpu.quarters();
    let (stream, event) = (gpu.stream(green), gpu.event(2));
    let address = gpu.alloc(64).unwrap();
    gpu.destroy(green);
    let (mut priority, mut flags, mut found) = (0, 0, ptr::null_mut());
    let mut host = [0_u8; 64];
    let data = host.as_mut_ptr().cast();
    seen.code("query", call!(gpu, cuStreamQuery(stream)));
    seen.code("synchronize", call!(gpu, cuStreamSynchronize(stream)));
    let code = call!(gpu, cuStreamGetPriority(stream, &mut priority));
    seen.code("priority", code);
    seen.code("flags", call!(gpu, cuStreamGetFlags(stream, &mut flags)));
    let code = call!(gpu, cuStreamGetGreenCtx(stream, &mut found));
    seen.note("green", format!("{} {}", say(code), found.is_null()));
    let (mut context, mut of_green) = (ptr::null_mut(), ptr::null_mut());
    let code = call!(gpu, cuStreamGetCtx_v2(stream, &mut context, &mut of_green));
    seen.code("context", code);
    seen.code("launch", gpu.launch_empty(stream));
    seen.code("record", call!(gpu, cuEventRecord(event, stream)));
    seen.code("wait", call!(gpu, cuStreamWaitEvent(stream, event, 0)));
    let code = call!(gpu, cuMemsetD8Async(address, 0, 64, stream));
    seen.code("memset", code);
    let code = call!(gpu, cuMemcpyHtoDAsync_v2(address, data, 64, stream));
    seen.code("copy in", code);
    let code = call!(gpu, cuMemcpyDtoHAsync_v2(data, address, 64, stream));
    seen.code("copy out", code);
    seen.code("destroy", call!(gpu, cuStreamDestroy_v2(stream)));
    must(call!(gpu, cuMemFree_v2(address)));
    must(call!(gpu, cuEventDestroy_v2(event)));
    // Nothing else is the worse for it.
    seen.note("SMs of the other", gpu.sms_of(other).len());
    gpu.destroy(other);
}

fn wrong_handles(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    let event = gpu.event(2);
    let nothing = ptr::null_mut();
    seen.code("destroy null", call!(gpu, cuStreamDestroy_v2(nothing)));
    seen.code(
        "destroy legacy",
        call!(gpu, cuStreamDestroy_v2(ptr::without_provenance_mut(1))),
    );
    seen.code(
        "destroy per thread",
        call!(gpu, cuStreamDestroy_v2(ptr::without_provenance_mut(2))),
    );
    for flags in [0, 1, 2, 3, 4] {
        let code = call!(gpu, cuStreamWaitEvent(stream, event, flags));
        seen.code(format!("wait flags {flags}"), code);
    }
    let code = call!(gpu, cuStreamGetPriority(stream, ptr::null_mut()));
    seen.code("priority to nowhere", code);
    let code = call!(gpu, cuStreamGetFlags(stream, ptr::null_mut()));
    seen.code("flags to nowhere", code);
    let code = call!(gpu, cuStreamCreateWithPriority(ptr::null_mut(), 1, 0));
    seen.code("create to nowhere", code);
    let code = call!(gpu, cuStreamWaitEvent(stream, ptr::null_mut(), 0));
    seen.code("wait for nothing", code);
    gpu.close(stream);
    seen.code("query after destroy", call!(gpu, cuStreamQuery(stream)));
    seen.code("destroy twice", call!(gpu, cuStreamDestroy_v2(stream)));
}

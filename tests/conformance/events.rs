//! Events: flags, times, across contexts, and the hand-off from one green context to another.

use std::{ffi::c_void, ptr};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("events/flags", flags),
    Case::new("events/times", times),
    Case::new("events/across_contexts", across_contexts),
    Case::new("events/hand_off", hand_off),
    Case::new("events/who_waits_for_whom", who_waits),
    Case::new("events/wrong_handles", wrong_handles).rough(),
];

fn flags(gpu: &Gpu<'_>, seen: &mut Seen) {
    for flags in (0..9).chain([16, 32, 64]) {
        let mut event = ptr::null_mut();
        let code = call!(gpu, cuEventCreate(&mut event, flags));
        seen.code(format!("{flags}"), code);
        if code == OK {
            must(call!(gpu, cuEventDestroy_v2(event)));
        }
    }
}

/// Rounds of arithmetic in so many blocks: about 20 ms on an H200.
fn load(gpu: &Gpu<'_>, stream: CUstream) {
    let (mut out, mut rounds) = (0_u64, 2_800_000_u32);
    let mut args: [*mut c_void; 2] = [(&raw mut out).cast(), (&raw mut rounds).cast()];
    must(gpu.launch(gpu.burn, stream, 1, 1024, &mut args));
}

fn times(gpu: &Gpu<'_>, seen: &mut Seen) {
    let stream = gpu.stream_here();
    let (start, end, never, untimed) = (gpu.event(0), gpu.event(0), gpu.event(0), gpu.event(2));
    let mut ms = -1.0;
    seen.code(
        "query of one never recorded",
        call!(gpu, cuEventQuery(never)),
    );
    seen.code(
        "wait for one never recorded",
        call!(gpu, cuEventSynchronize(never)),
    );
    must(call!(gpu, cuEventRecord(start, stream)));
    load(gpu, stream);
    must(call!(gpu, cuEventRecord(end, stream)));
    must(call!(gpu, cuEventRecord(untimed, stream)));
    seen.code("query too early", call!(gpu, cuEventQuery(end)));
    seen.code("stream too early", call!(gpu, cuStreamQuery(stream)));
    let code = call!(gpu, cuEventElapsedTime(&mut ms, start, end));
    seen.code("elapsed too early", code);
    must(call!(gpu, cuEventSynchronize(end)));
    seen.code("query in time", call!(gpu, cuEventQuery(end)));
    let code = call!(gpu, cuEventElapsedTime(&mut ms, start, end));
    seen.note(
        "elapsed",
        format!("{} {}", say(code), ms > 10.0 && ms < 60.0),
    );
    let code = call!(gpu, cuEventElapsedTime(&mut ms, end, start));
    seen.note("elapsed backwards", format!("{} {}", say(code), ms < 0.0));
    let code = call!(gpu, cuEventElapsedTime(&mut ms, start, start));
    seen.note("elapsed to itself", format!("{} {ms}", say(code)));
    let code = call!(gpu, cuEventElapsedTime(&mut ms, start, never));
    seen.code("elapsed to one never recorded", code);
    let code = call!(gpu, cuEventElapsedTime(&mut ms, start, untimed));
    seen.code("elapsed to one without time", code);
    for event in [start, end, never, untimed] {
        must(call!(gpu, cuEventDestroy_v2(event)));
    }
    gpu.close(stream);
}

/// Events made in one context, recorded in a second, waited for in a third, and after their end.
fn across_contexts(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [one, other] = gpu.quarters();
    let contexts = [one, other].map(|green| gpu.context(green).unwrap());
    let streams = [one, other].map(|green| gpu.stream(green));
    let plain = gpu.stream_here();
    let mut made = ptr::null_mut();
    let code = gpu.within(contexts[0], || call!(gpu, cuEventCreate(&mut made, 0)));
    seen.code("made in a green context", code);
    seen.code(
        "recorded in its own",
        call!(gpu, cuEventRecord(made, streams[0])),
    );
    seen.code(
        "recorded in another",
        call!(gpu, cuEventRecord(made, streams[1])),
    );
    seen.code(
        "recorded in the primary",
        call!(gpu, cuEventRecord(made, plain)),
    );
    seen.code(
        "waited for in another",
        call!(gpu, cuStreamWaitEvent(streams[1], made, 0)),
    );
    seen.code(
        "of its green context",
        call!(gpu, cuGreenCtxRecordEvent(one, made)),
    );
    seen.code("of another", call!(gpu, cuGreenCtxRecordEvent(other, made)));
    seen.code("another waits", call!(gpu, cuGreenCtxWaitEvent(one, made)));
    let own = gpu.event(0);
    seen.code(
        "the primary's event",
        call!(gpu, cuGreenCtxRecordEvent(one, own)),
    );
    seen.code("is done", call!(gpu, cuEventSynchronize(own)));
    let mut ms = -1.0;
    let code = call!(gpu, cuEventElapsedTime(&mut ms, made, own));
    seen.code("elapsed between contexts", code);
    gpu.close(streams[0]);
    gpu.destroy(one);
    seen.code("query after its context", call!(gpu, cuEventQuery(made)));
    seen.code(
        "wait after its context",
        call!(gpu, cuEventSynchronize(made)),
    );
    seen.code(
        "record after its context",
        call!(gpu, cuEventRecord(made, streams[1])),
    );
    seen.code(
        "waited for after its context",
        call!(gpu, cuStreamWaitEvent(plain, made, 0)),
    );
    seen.code(
        "destroy after its context",
        call!(gpu, cuEventDestroy_v2(made)),
    );
    must(call!(gpu, cuEventDestroy_v2(own)));
    gpu.close(streams[1]);
    gpu.close(plain);
    gpu.destroy(other);
}

/// Work of the new context waits for that of the old one, in streams from before and after the call.
fn hand_off(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [old, new] = gpu.quarters();
    let (from, before) = (gpu.stream(old), gpu.stream(new));
    let event = gpu.event(2);
    load(gpu, from);
    seen.code("record", call!(gpu, cuGreenCtxRecordEvent(old, event)));
    seen.code("wait", call!(gpu, cuGreenCtxWaitEvent(new, event)));
    let after = gpu.stream(new);
    must(gpu.launch_empty(before));
    must(gpu.launch_empty(after));
    seen.code("event", call!(gpu, cuEventQuery(event)));
    seen.code("old", call!(gpu, cuStreamQuery(from)));
    seen.code("new, from before", call!(gpu, cuStreamQuery(before)));
    seen.code("new, from after", call!(gpu, cuStreamQuery(after)));
    must(call!(gpu, cuStreamSynchronize(after)));
    seen.code("old at the end", call!(gpu, cuStreamQuery(from)));
    must(call!(gpu, cuStreamSynchronize(before)));
    must(call!(gpu, cuEventDestroy_v2(event)));
    for stream in [from, before, after] {
        gpu.close(stream);
    }
    gpu.destroy(old);
    gpu.destroy(new);
}

/// Which calls wait for a load of 20 ms elsewhere: asked of the load's own stream afterwards.
fn who_waits(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [busy, idle] = gpu.quarters();
    let stream = gpu.stream(busy);
    let idle_stream = gpu.stream(idle);
    let (busy_context, idle_context) = (gpu.context(busy).unwrap(), gpu.context(idle).unwrap());
    let default = ptr::null_mut();
    let mut blocking = ptr::null_mut();
    must(call!(gpu, cuStreamCreateWithPriority(&mut blocking, 0, 0)));
    let mut host = [0_u8; 64];
    let address = gpu.alloc(64).unwrap();
    let mut try_it = |name: &str, load_in: CUstream, act: &mut dyn FnMut() -> CUresult| {
        load(gpu, load_in);
        let code = act();
        let state = call!(gpu, cuStreamQuery(load_in));
        let waited = if state == OK {
            "waits"
        } else {
            "does not wait"
        };
        seen.note(name, format!("{}, {waited}", say(code)));
        must(call!(gpu, cuStreamSynchronize(load_in)));
    };
    try_it("primary synchronizes", stream, &mut || {
        call!(gpu, cuCtxSynchronize())
    });
    try_it("own context synchronizes", stream, &mut || {
        gpu.within(busy_context, || call!(gpu, cuCtxSynchronize()))
    });
    try_it("other context synchronizes", stream, &mut || {
        gpu.within(idle_context, || call!(gpu, cuCtxSynchronize()))
    });
    try_it("other stream synchronizes", stream, &mut || {
        call!(gpu, cuStreamSynchronize(idle_stream))
    });
    try_it("default stream synchronizes", stream, &mut || {
        call!(gpu, cuStreamSynchronize(default))
    });
    try_it("default stream of the own context", stream, &mut || {
        gpu.within(busy_context, || {
            must(gpu.launch_empty(default));
            call!(gpu, cuStreamSynchronize(default))
        })
    });
    try_it("default stream after a blocking one", blocking, &mut || {
        must(gpu.launch_empty(default));
        call!(gpu, cuStreamSynchronize(default))
    });
    try_it("copy out", stream, &mut || {
        call!(gpu, cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, 64))
    });
    try_it("copy out after a blocking stream", blocking, &mut || {
        call!(gpu, cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, 64))
    });
    try_it("allocate", stream, &mut || {
        let address = gpu.alloc(4 << 20);
        address
            .map(|address| call!(gpu, cuMemFree_v2(address)))
            .unwrap_or_else(|code| code)
    });
    try_it("free", stream, &mut || call!(gpu, cuMemFree_v2(address)));
    try_it("green context made and destroyed", stream, &mut || {
        gpu.destroy(gpu.quarter());
        OK
    });
    try_it("stream made and destroyed", stream, &mut || {
        gpu.close(gpu.stream_here());
        OK
    });
    gpu.close(blocking);
    gpu.close(idle_stream);
    // The busy context goes while its load runs.
    let event = gpu.event(2);
    load(gpu, stream);
    must(call!(gpu, cuEventRecord(event, stream)));
    seen.code("stream destroyed", call!(gpu, cuStreamDestroy_v2(stream)));
    seen.code("event then", call!(gpu, cuEventQuery(event)));
    seen.code("context destroyed", call!(gpu, cuGreenCtxDestroy(busy)));
    seen.code("event after that", call!(gpu, cuEventQuery(event)));
    seen.code("wait for it", call!(gpu, cuEventSynchronize(event)));
    seen.code("event at the end", call!(gpu, cuEventQuery(event)));
    must(call!(gpu, cuEventDestroy_v2(event)));
    gpu.destroy(idle);
}

fn wrong_handles(gpu: &Gpu<'_>, seen: &mut Seen) {
    let event = gpu.event(2);
    let stream = gpu.stream_here();
    let nothing = ptr::null_mut();
    let mut ms = 0.0;
    seen.code(
        "create to nowhere",
        call!(gpu, cuEventCreate(ptr::null_mut(), 0)),
    );
    seen.code("query null", call!(gpu, cuEventQuery(nothing)));
    seen.code("record null", call!(gpu, cuEventRecord(nothing, stream)));
    seen.code("wait for null", call!(gpu, cuEventSynchronize(nothing)));
    seen.code("destroy null", call!(gpu, cuEventDestroy_v2(nothing)));
    let code = call!(gpu, cuEventElapsedTime(&mut ms, nothing, event));
    seen.code("elapsed from null", code);
    must(call!(gpu, cuEventDestroy_v2(event)));
    seen.code("query after destroy", call!(gpu, cuEventQuery(event)));
    seen.code("destroy twice", call!(gpu, cuEventDestroy_v2(event)));
}

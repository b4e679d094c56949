//! Graphs: what is made of a capture, and where it runs.

use std::{
    collections::BTreeSet,
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, SmIdsArgs, call, count, must, said, say},
};

pub const CASES: &[Case] = &[
    Case::new("graphs/life", life),
    Case::new("graphs/where_it_runs", where_it_runs),
    Case::new("graphs/across_contexts", across_contexts),
    Case::new("graphs/nodes", nodes),
    Case::new("graphs/within_a_graph", within_a_graph),
];

pub const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;

/// SMs that are counted.
const LEN: usize = 1024;

pub fn begin(gpu: &Gpu<'_>, stream: CUstream) -> CUresult {
    call!(gpu, cuStreamBeginCapture_v2(stream, GLOBAL))
}

/// A graph, or a code. Where there is a code, there must be no graph.
pub fn end(gpu: &Gpu<'_>, stream: CUstream) -> Result<CUgraph, CUresult> {
    let mut graph = ptr::null_mut();
    call!(gpu, cuStreamEndCapture(stream, &mut graph)).ok()?;
    Ok(graph)
}

/// Ends a capture and notes how.
pub fn end_and_note(gpu: &Gpu<'_>, seen: &mut Seen, name: &str, stream: CUstream) {
    let graph = end(gpu, stream);
    let what = match &graph {
        Ok(graph) if graph.is_null() => "SUCCESS without a graph".to_owned(),
        graph => said(graph),
    };
    seen.note(name, what);
    if let Ok(graph) = graph
        && !graph.is_null()
    {
        must(call!(gpu, cuGraphDestroy(graph)));
    }
}

/// What is said of a stream: a code, and a status if that is success.
pub fn status(gpu: &Gpu<'_>, stream: CUstream) -> String {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let code = call!(gpu, cuStreamIsCapturing(stream, &mut status));
    match (code, status.0) {
        (OK, 0) => "none".to_owned(),
        (OK, 1) => "active".to_owned(),
        (OK, 2) => "invalidated".to_owned(),
        (OK, other) => format!("status {other}"),
        (code, _) => say(code),
    }
}

fn instantiate(gpu: &Gpu<'_>, graph: CUgraph) -> CUgraphExec {
    let mut exec = ptr::null_mut();
    must(call!(gpu, cuGraphInstantiateWithFlags(&mut exec, graph, 0)));
    exec
}

/// What a capture comes to: instantiated, its graph destroyed.
fn captured(gpu: &Gpu<'_>, stream: CUstream, work: impl FnOnce()) -> CUgraphExec {
    must(begin(gpu, stream));
    work();
    let graph = end(gpu, stream).unwrap();
    let exec = instantiate(gpu, graph);
    must(call!(gpu, cuGraphDestroy(graph)));
    exec
}

/// Counts blocks by SM, in memory of one's own.
fn count_sms(gpu: &Gpu<'_>, stream: CUstream, counters: CUdeviceptr) {
    let mut args = SmIdsArgs::new(counters, LEN as u32, 20_000);
    must(call!(gpu, cuMemsetD8Async(counters, 0, LEN * 4, stream)));
    must(gpu.launch(
        gpu.sm_ids,
        stream,
        4 * LEN as u32,
        256,
        &mut args.pointers(),
    ));
}

fn counted(gpu: &Gpu<'_>, counters: CUdeviceptr) -> BTreeSet<u32> {
    let mut counts = vec![0_u32; LEN];
    let to = counts.as_mut_ptr().cast();
    must(call!(gpu, cuMemcpyDtoH_v2(to, counters, LEN * 4)));
    let sms = (0..).zip(counts).filter(|(_, count)| *count > 0);
    sms.map(|(sm, _)| sm).collect()
}

fn life(gpu: &Gpu<'_>, seen: &mut Seen) {
    let mut graph = ptr::null_mut();
    for flags in [1, 2] {
        let code = call!(gpu, cuGraphCreate(&mut graph, flags));
        seen.code(format!("create with flags {flags}"), code);
        if code == OK {
            must(call!(gpu, cuGraphDestroy(graph)));
        }
    }
    must(call!(gpu, cuGraphCreate(&mut graph, 0)));
    let mut exec = ptr::null_mut();
    for flags in [0, 1, 2, 4, 8, 16, 1 << 40] {
        let code = call!(gpu, cuGraphInstantiateWithFlags(&mut exec, graph, flags));
        seen.code(format!("instantiate empty with flags {flags}"), code);
        if code == OK {
            must(call!(gpu, cuGraphExecDestroy(exec)));
        }
    }
    let exec = instantiate(gpu, graph);
    let second = instantiate(gpu, graph);
    seen.note("two instantiations differ", exec != second);
    let green = gpu.quarter();
    let (plain, inside) = (gpu.stream_here(), gpu.stream(green));
    for (name, stream) in [
        ("default", ptr::null_mut()),
        ("plain", plain),
        ("green", inside),
    ] {
        let upload = call!(gpu, cuGraphUpload(exec, stream));
        seen.code(format!("upload in {name}"), upload);
        let launch = call!(gpu, cuGraphLaunch(exec, stream));
        seen.code(format!("launch in {name}"), launch);
        seen.code(
            format!("wait in {name}"),
            call!(gpu, cuStreamSynchronize(stream)),
        );
    }
    let mut bare = ptr::null_mut();
    let without = gpu.without(|| {
        [
            call!(gpu, cuGraphLaunch(exec, plain)),
            call!(gpu, cuGraphUpload(exec, plain)),
            call!(gpu, cuGraphCreate(&mut bare, 0)),
        ]
    });
    if without[2] == OK {
        must(call!(gpu, cuGraphDestroy(bare)));
    }
    seen.code("launch without a context", without[0]);
    seen.code("upload without a context", without[1]);
    seen.code("create without a context", without[2]);
    seen.code("destroy the graph first", call!(gpu, cuGraphDestroy(graph)));
    seen.code("launch after it", call!(gpu, cuGraphLaunch(exec, inside)));
    must(call!(gpu, cuStreamSynchronize(inside)));
    seen.code("destroy", call!(gpu, cuGraphExecDestroy(exec)));
    gpu.close(inside);
    gpu.destroy(green);
    seen.code(
        "launch after a context that ran it",
        call!(gpu, cuGraphLaunch(second, plain)),
    );
    must(call!(gpu, cuStreamSynchronize(plain)));
    must(call!(gpu, cuGraphExecDestroy(second)));
    gpu.close(plain);
    let code = call!(gpu, cuGraphCreate(ptr::null_mut(), 0));
    seen.code("create to nowhere", code);
}

fn where_it_runs(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [a, b] = gpu.quarters();
    let (in_a, in_b, plain) = (gpu.stream(a), gpu.stream(b), gpu.stream_here());
    let counters = gpu.alloc(LEN * 4).unwrap();
    let of_a = gpu.sms_of(a);
    seen.note("SMs of A", of_a.len());
    let exec = captured(gpu, in_a, || count_sms(gpu, in_a, counters));
    for (name, stream) in [
        ("A", in_a),
        ("B", in_b),
        ("primary", plain),
        ("default", ptr::null_mut()),
        ("A again", in_a),
    ] {
        must(call!(gpu, cuGraphLaunch(exec, stream)));
        must(call!(gpu, cuStreamSynchronize(stream)));
        seen.note(
            format!("captured in A, launched in {name}: the SMs of A"),
            counted(gpu, counters) == of_a,
        );
    }
    must(call!(gpu, cuGraphExecDestroy(exec)));
    // And one of the primary context, launched in a green one.
    let exec = captured(gpu, plain, || count_sms(gpu, plain, counters));
    must(call!(gpu, cuGraphLaunch(exec, in_b)));
    must(call!(gpu, cuStreamSynchronize(in_b)));
    let all = counted(gpu, counters).len() == count(&gpu.whole()) as usize;
    seen.note("captured in primary, launched in B: all SMs", all);
    must(call!(gpu, cuGraphExecDestroy(exec)));
    must(call!(gpu, cuMemFree_v2(counters)));
    for stream in [in_a, in_b, plain] {
        gpu.close(stream);
    }
    gpu.destroy(a);
    gpu.destroy(b);
}

/// A capture that goes from A into B and the primary context, and back.
fn across_contexts(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [a, b] = gpu.quarters();
    let streams = [gpu.stream(a), gpu.stream(b), gpu.stream_here()];
    let counters = [0; 3].map(|_| gpu.alloc(LEN * 4).unwrap());
    let events = [0; 3].map(|_| gpu.event(2));
    let (of_a, of_b) = (gpu.sms_of(a), gpu.sms_of(b));
    must(begin(gpu, streams[0]));
    must(call!(gpu, cuEventRecord(events[0], streams[0])));
    for (name, index) in [("B", 1), ("primary", 2)] {
        let code = call!(gpu, cuStreamWaitEvent(streams[index], events[0], 0));
        seen.code(format!("{name} waits for A"), code);
        seen.note(format!("{name} then"), status(gpu, streams[index]));
    }
    for (stream, counters) in streams.iter().zip(counters) {
        count_sms(gpu, *stream, counters);
    }
    for index in [1, 2] {
        must(call!(gpu, cuEventRecord(events[index], streams[index])));
        must(call!(gpu, cuStreamWaitEvent(streams[0], events[index], 0)));
    }
    let graph = end(gpu, streams[0]);
    seen.note("end", said(&graph));
    for (name, stream) in [("B", streams[1]), ("primary", streams[2])] {
        seen.note(format!("{name} after the end"), status(gpu, stream));
    }
    let exec = instantiate(gpu, graph.unwrap());
    must(call!(gpu, cuGraphDestroy(graph.unwrap())));
    for stream in streams {
        must(call!(gpu, cuGraphLaunch(exec, stream)));
        must(call!(gpu, cuStreamSynchronize(stream)));
    }
    seen.note("A's part ran on A", counted(gpu, counters[0]) == of_a);
    seen.note("B's part ran on B", counted(gpu, counters[1]) == of_b);
    let all = count(&gpu.whole()) as usize;
    seen.note(
        "primary's part ran on all",
        counted(gpu, counters[2]).len() == all,
    );
    must(call!(gpu, cuGraphExecDestroy(exec)));
    for address in counters {
        must(call!(gpu, cuMemFree_v2(address)));
    }
    for event in events {
        must(call!(gpu, cuEventDestroy_v2(event)));
    }
    for stream in streams {
        gpu.close(stream);
    }
    gpu.destroy(a);
    gpu.destroy(b);
}

unsafe extern "C" fn add_one(data: *mut c_void) {
    unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::SeqCst);
}

/// What each kind of node does, and that arguments are those of the capture.
fn nodes(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    let [a, b] = [0; 2].map(|_| gpu.alloc(4096).unwrap());
    let mut host: *mut c_void = ptr::null_mut();
    must(call!(gpu, cuMemHostAlloc(&mut host, 4096, 0)));
    let bytes = host.cast::<u8>();
    let at = |index: usize| unsafe { bytes.add(index).read_volatile() };
    let calls = AtomicU32::new(0);
    let data = (&raw const calls).cast_mut().cast::<c_void>();
    unsafe { bytes.write_bytes(7, 4096) };
    must(begin(gpu, stream));
    let mut note = |name: &str, code| seen.code(name, code);
    note(
        "copy in",
        call!(gpu, cuMemcpyHtoDAsync_v2(a, host, 4, stream)),
    );
    note("set", call!(gpu, cuMemsetD8Async(a + 1, 1, 1, stream)));
    note(
        "set words",
        call!(gpu, cuMemsetD32Async(a + 4, 0x0505_0505, 1, stream)),
    );
    note(
        "copy within",
        call!(gpu, cuMemcpyDtoDAsync_v2(b, a, 8, stream)),
    );
    note(
        "call",
        call!(gpu, cuLaunchHostFunc(stream, Some(add_one), data)),
    );
    let out = host.wrapping_byte_add(100);
    note(
        "copy out",
        call!(gpu, cuMemcpyDtoHAsync_v2(out, b, 8, stream)),
    );
    note("set nothing", call!(gpu, cuMemsetD8Async(a, 1, 0, stream)));
    let graph = end(gpu, stream);
    seen.note("end", said(&graph));
    seen.note("calls before a launch", calls.load(Ordering::SeqCst));
    seen.note("bytes before a launch", at(100));
    let exec = instantiate(gpu, graph.unwrap());
    must(call!(gpu, cuGraphDestroy(graph.unwrap())));
    for round in 0..2_u8 {
        unsafe { bytes.write_bytes(9 + round, 4) };
        must(call!(gpu, cuGraphLaunch(exec, stream)));
        must(call!(gpu, cuStreamSynchronize(stream)));
        let after: Vec<u8> = (100..108).map(at).collect();
        seen.note(format!("bytes after launch {round}"), after);
    }
    seen.note("calls after two launches", calls.load(Ordering::SeqCst));
    must(call!(gpu, cuGraphExecDestroy(exec)));
    must(call!(gpu, cuMemFreeHost(host)));
    for address in [a, b] {
        must(call!(gpu, cuMemFree_v2(address)));
    }
    gpu.close(stream);
    gpu.destroy(green);
}

/// A launch of a graph in a capture, and one instantiation in two streams.
fn within_a_graph(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [a, b] = gpu.quarters();
    let (in_a, in_b) = (gpu.stream(a), gpu.stream(b));
    let counters = gpu.alloc(LEN * 4).unwrap();
    let of_a = gpu.sms_of(a);
    let inner = captured(gpu, in_a, || count_sms(gpu, in_a, counters));
    must(begin(gpu, in_b));
    seen.code(
        "launch in a capture",
        call!(gpu, cuGraphLaunch(inner, in_b)),
    );
    seen.note("the capture then", status(gpu, in_b));
    let graph = end(gpu, in_b);
    seen.note("end", said(&graph));
    if let Ok(graph) = graph {
        let exec = instantiate(gpu, graph);
        must(call!(gpu, cuGraphDestroy(graph)));
        must(call!(gpu, cuGraphLaunch(exec, in_b)));
        must(call!(gpu, cuStreamSynchronize(in_b)));
        seen.note("the inner one ran on A", counted(gpu, counters) == of_a);
        must(call!(gpu, cuGraphExecDestroy(exec)));
    }
    for _ in 0..20 {
        must(call!(gpu, cuGraphLaunch(inner, in_a)));
        must(call!(gpu, cuGraphLaunch(inner, in_b)));
    }
    seen.code(
        "destroy with launches ahead",
        call!(gpu, cuGraphExecDestroy(inner)),
    );
    must(call!(gpu, cuStreamSynchronize(in_a)));
    must(call!(gpu, cuStreamSynchronize(in_b)));
    seen.note("they all ran on A", counted(gpu, counters) == of_a);
    must(call!(gpu, cuMemFree_v2(counters)));
    for (stream, green) in [(in_a, a), (in_b, b)] {
        gpu.close(stream);
        gpu.destroy(green);
    }
}

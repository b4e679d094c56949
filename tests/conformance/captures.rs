//! How captures begin, fork, meet and end, and what events have to do with them.

use std::ptr;

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, said, say},
    graphs::{begin, end, end_and_note, status},
};

pub const CASES: &[Case] = &[
    Case::new("captures/begin_and_end", begin_and_end),
    Case::new("captures/default_streams", default_streams),
    Case::new("captures/events", events),
    Case::new("captures/forks", forks),
    Case::new("captures/threads", threads),
    Case::new("captures/the_context_ends", the_context_ends).rough(),
    Case::new("captures/the_stream_ends", the_stream_ends).rough(),
];

fn begin_and_end(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    seen.note("at first", status(gpu, stream));
    let ended = end(gpu, stream);
    seen.note("end without a beginning", said(&ended));
    for mode in [0, 1, 2, 3, 4711] {
        let mode = CUstreamCaptureMode_enum(mode);
        let code = call!(gpu, cuStreamBeginCapture_v2(stream, mode));
        seen.code(format!("begin with mode {}", mode.0), code);
        seen.note(format!("status with mode {}", mode.0), status(gpu, stream));
        if code == OK {
            end_and_note(gpu, seen, &format!("end with mode {}", mode.0), stream);
        }
    }
    must(begin(gpu, stream));
    seen.code("begin twice", begin(gpu, stream));
    seen.note("status then", status(gpu, stream));
    end_and_note(gpu, seen, "end", stream);
    end_and_note(gpu, seen, "end twice", stream);
    // With work ahead in the stream.
    must(gpu.launch_spin(stream, 1, 100_000));
    seen.code("begin behind work", begin(gpu, stream));
    end_and_note(gpu, seen, "end behind work", stream);
    // With another context current, and with none.
    must(begin(gpu, stream));
    let code = gpu.without(|| gpu.launch_empty(stream));
    seen.code("launch without a context", code);
    let ended = gpu.without(|| end(gpu, stream));
    seen.note("end without a context", said(&ended));
    if let Ok(graph) = ended {
        must(call!(gpu, cuGraphDestroy(graph)));
    }
    // What goes wrong in a capture.
    must(begin(gpu, stream));
    let bad = gpu.launch_spin(stream, 0, 0);
    seen.code("a bad launch", bad);
    seen.note("the capture then", status(gpu, stream));
    end_and_note(gpu, seen, "end after a bad launch", stream);
    must(call!(gpu, cuStreamSynchronize(stream)));
    gpu.close(stream);
    gpu.destroy(green);
}

/// Default streams, in the primary context and in a green one.
fn default_streams(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let inside = gpu.context(green).unwrap();
    for (place, context) in [("primary", gpu.primary), ("green", inside)] {
        gpu.within(context, || {
            for (name, handle) in [("none", 0), ("legacy", 1), ("per thread", 2)] {
                let stream = ptr::without_provenance_mut(handle);
                let code = begin(gpu, stream);
                seen.code(format!("{place}: begin in {name}"), code);
                seen.note(format!("{place}: status of {name}"), status(gpu, stream));
                if code == OK {
                    end_and_note(gpu, seen, &format!("{place}: end in {name}"), stream);
                }
            }
        });
    }
    // A blocking stream in a capture, and the default stream beside it.
    let mut blocking = ptr::null_mut();
    must(call!(gpu, cuStreamCreateWithPriority(&mut blocking, 0, 0)));
    let none = ptr::null_mut();
    must(begin(gpu, blocking));
    seen.note("beside a blocking stream's capture", status(gpu, none));
    seen.note("the capture after that question", status(gpu, blocking));
    seen.code("launch beside it", gpu.launch_empty(none));
    seen.note("the capture then", status(gpu, blocking));
    end_and_note(gpu, seen, "end", blocking);
    must(begin(gpu, blocking));
    seen.code("wait beside it", call!(gpu, cuStreamSynchronize(none)));
    seen.note("the capture after the wait", status(gpu, blocking));
    end_and_note(gpu, seen, "end after the wait", blocking);
    gpu.close(blocking);
    // The same with one that is not blocking.
    let plain = gpu.stream_here();
    must(begin(gpu, plain));
    seen.note("beside a non-blocking one's", status(gpu, none));
    seen.code("launch beside that", gpu.launch_empty(none));
    end_and_note(gpu, seen, "end of that", plain);
    must(call!(gpu, cuCtxSynchronize()));
    gpu.close(plain);
    gpu.destroy(green);
}

fn events(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [a, b] = gpu.quarters();
    let (stream, other) = (gpu.stream(a), gpu.stream(b));
    let [event, outside, fresh] = [0; 3].map(|_| gpu.event(0));
    must(call!(gpu, cuEventRecord(outside, other)));
    must(call!(gpu, cuStreamSynchronize(other)));
    // Each question in a capture of its own, since it may spoil it.
    let ask = |what: u32, event: CUevent| match what {
        0 => call!(gpu, cuEventQuery(event)),
        1 => call!(gpu, cuEventSynchronize(event)),
        2 => call!(gpu, cuEventElapsedTime(&mut 0.0, event, event)),
        3 => call!(gpu, cuEventRecord(event, other)),
        4 => call!(gpu, cuGreenCtxWaitEvent(b, event)),
        _ => call!(gpu, cuGreenCtxRecordEvent(b, event)),
    };
    let names = [
        "query",
        "wait",
        "elapsed",
        "record elsewhere",
        "another context waits",
        "another context records",
    ];
    for (what, name) in (0..).zip(names) {
        must(begin(gpu, stream));
        let code = call!(gpu, cuEventRecord(event, stream));
        if what == 0 {
            seen.code("record in a capture", code);
        }
        seen.code(format!("{name}, recorded in it"), ask(what, event));
        seen.note(format!("{name}: the capture then"), status(gpu, stream));
        end_and_note(gpu, seen, &format!("{name}: end"), stream);
        seen.code(format!("{name}, after its end"), ask(what, event));
        must(call!(gpu, cuEventRecord(event, other)));
        seen.code(
            format!("{name}, recorded anew"),
            call!(gpu, cuEventSynchronize(event)),
        );
    }
    for (name, event) in [("recorded outside", outside), ("never recorded", fresh)] {
        must(begin(gpu, stream));
        let code = call!(gpu, cuStreamWaitEvent(stream, event, 0));
        seen.code(format!("wait in a capture for one {name}"), code);
        seen.note(format!("{name}: the capture then"), status(gpu, stream));
        end_and_note(gpu, seen, &format!("{name}: end"), stream);
    }
    // An event of a capture that has ended.
    must(begin(gpu, stream));
    must(call!(gpu, cuEventRecord(event, stream)));
    end_and_note(gpu, seen, "end of a capture with an event", stream);
    let code = call!(gpu, cuStreamWaitEvent(other, event, 0));
    seen.code("another stream waits for it then", code);
    seen.note("that stream then", status(gpu, other));
    must(call!(gpu, cuEventRecord(event, other)));
    // Events that are nodes.
    let flagged = |event, stream| call!(gpu, cuEventRecordWithFlags(event, stream, 1));
    seen.code("record as a node outside", flagged(event, stream));
    let code = call!(gpu, cuEventRecordWithFlags(event, stream, 2));
    seen.code("record with flags 2", code);
    must(begin(gpu, stream));
    seen.code("record as a node", flagged(event, stream));
    let code = call!(gpu, cuStreamWaitEvent(stream, outside, 1));
    seen.code("wait as a node", code);
    seen.code("query one that is a node", call!(gpu, cuEventQuery(event)));
    seen.note("the capture after that", status(gpu, stream));
    end_and_note(gpu, seen, "end with nodes", stream);
    must(call!(gpu, cuCtxSynchronize()));
    for event in [event, outside, fresh] {
        must(call!(gpu, cuEventDestroy_v2(event)));
    }
    for (stream, green) in [(stream, a), (other, b)] {
        gpu.close(stream);
        gpu.destroy(green);
    }
}

fn forks(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [a, b] = gpu.quarters();
    let (first, second) = (gpu.stream(a), gpu.stream(b));
    let [event, back] = [0; 2].map(|_| gpu.event(2));
    let fork = || {
        must(begin(gpu, first));
        must(call!(gpu, cuEventRecord(event, first)));
        must(call!(gpu, cuStreamWaitEvent(second, event, 0)));
    };
    fork();
    end_and_note(gpu, seen, "not joined, nothing in the fork: end", first);
    seen.note("not joined, nothing in it: the fork", status(gpu, second));
    fork();
    must(gpu.launch_empty(second));
    end_and_note(gpu, seen, "not joined: end", first);
    seen.note("not joined: the origin", status(gpu, first));
    seen.note("not joined: the fork", status(gpu, second));
    seen.code(
        "not joined: the fork's wait",
        call!(gpu, cuStreamSynchronize(second)),
    );
    fork();
    end_and_note(gpu, seen, "end in the fork", second);
    seen.note("end in the fork: the origin", status(gpu, first));
    seen.note("end in the fork: the fork", status(gpu, second));
    end_and_note(gpu, seen, "end in the fork: then in the origin", first);
    // Joined, and work after.
    fork();
    must(gpu.launch_empty(second));
    must(call!(gpu, cuEventRecord(back, second)));
    must(call!(gpu, cuStreamWaitEvent(first, back, 0)));
    must(gpu.launch_empty(second));
    end_and_note(gpu, seen, "joined too early: end", first);
    // Two captures that meet.
    must(begin(gpu, first));
    must(begin(gpu, second));
    must(call!(gpu, cuEventRecord(event, first)));
    let code = call!(gpu, cuStreamWaitEvent(second, event, 0));
    seen.code("two captures meet", code);
    seen.note("they meet: the first", status(gpu, first));
    seen.note("they meet: the second", status(gpu, second));
    end_and_note(gpu, seen, "they meet: end of the first", first);
    end_and_note(gpu, seen, "they meet: end of the second", second);
    // Into the default stream, which cannot be captured.
    must(begin(gpu, first));
    must(call!(gpu, cuEventRecord(event, first)));
    let none = ptr::null_mut();
    let code = call!(gpu, cuStreamWaitEvent(none, event, 0));
    seen.code("into the default stream", code);
    seen.note("into the default stream: the capture", status(gpu, first));
    end_and_note(gpu, seen, "into the default stream: end", first);
    must(call!(gpu, cuCtxSynchronize()));
    for event in [event, back] {
        must(call!(gpu, cuEventDestroy_v2(event)));
    }
    for (stream, green) in [(first, a), (second, b)] {
        gpu.close(stream);
        gpu.destroy(green);
    }
}

/// Handles and the driver, for another thread.
struct Elsewhere<'a> {
    api: &'a Api,
    stream: usize,
}

impl Elsewhere<'_> {
    /// Does something with the stream on another thread.
    fn run<T: Send>(&self, work: impl FnOnce(&Gpu<'_>, CUstream) -> T + Send) -> T {
        let (api, stream) = (self.api, self.stream);
        std::thread::scope(|scope| {
            let run = || work(&Gpu::bare(api), ptr::without_provenance_mut(stream));
            scope.spawn(run).join().unwrap()
        })
    }
}

fn threads(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    let elsewhere = Elsewhere {
        api: gpu.api,
        stream: stream as usize,
    };
    for mode in [0, 1, 2] {
        let of_mode = CUstreamCaptureMode_enum(mode);
        must(call!(gpu, cuStreamBeginCapture_v2(stream, of_mode)));
        let code = elsewhere.run(|gpu, stream| say(call!(gpu, cuMemsetD8Async(0, 0, 0, stream))));
        seen.note(format!("mode {mode}: work of another thread"), code);
        let code = elsewhere.run(|gpu, stream| {
            let ended = end(gpu, stream);
            let text = said(&ended);
            if let Ok(graph) = ended {
                must(call!(gpu, cuGraphDestroy(graph)));
            }
            text
        });
        seen.note(format!("mode {mode}: end on another thread"), &code);
        seen.note(format!("mode {mode}: then"), status(gpu, stream));
        if code != "SUCCESS" {
            end_and_note(
                gpu,
                seen,
                &format!("mode {mode}: end where it began"),
                stream,
            );
        }
    }
    // The mode of a thread.
    let exchange = |mode| {
        let mut mode = CUstreamCaptureMode_enum(mode);
        let code = call!(gpu, cuThreadExchangeStreamCaptureMode(&mut mode));
        format!("{} {}", say(code), mode.0)
    };
    for (turn, mode) in (1..).zip([0, 1, 2, 3, 2, 0]) {
        let name = format!("exchange {turn}, for {mode}");
        seen.note(name, exchange(mode));
    }
    seen.code(
        "exchange with nowhere",
        call!(gpu, cuThreadExchangeStreamCaptureMode(ptr::null_mut())),
    );
    gpu.close(stream);
    gpu.destroy(green);
}

fn the_context_ends(gpu: &Gpu<'_>, seen: &mut Seen) {
    let [a, b] = gpu.quarters();
    let (first, second) = (gpu.stream(a), gpu.stream(b));
    let event = gpu.event(2);
    // That of a fork: the origin's capture is spoilt.
    must(begin(gpu, first));
    must(call!(gpu, cuEventRecord(event, first)));
    must(call!(gpu, cuStreamWaitEvent(second, event, 0)));
    seen.code("destroy the fork's", call!(gpu, cuGreenCtxDestroy(b)));
    seen.note("the origin then", status(gpu, first));
    end_and_note(gpu, seen, "end", first);
    seen.note("the origin after the end", status(gpu, first));
    must(begin(gpu, first));
    seen.code("destroy the origin's", call!(gpu, cuGreenCtxDestroy(a)));
    seen.note("its stream then", status(gpu, first));
    end_and_note(gpu, seen, "end after its end", first);
    seen.code("allocate after all that", said_alloc(gpu));
}

fn the_stream_ends(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    must(begin(gpu, stream));
    must(gpu.launch_empty(stream));
    seen.code(
        "destroy in a capture",
        call!(gpu, cuStreamDestroy_v2(stream)),
    );
    seen.code("allocate after it", said_alloc(gpu));
    seen.code("wait after it", call!(gpu, cuCtxSynchronize()));
    seen.code("destroy the context", call!(gpu, cuGreenCtxDestroy(green)));
}

/// Whether allocating is forbidden by a capture that is still there.
fn said_alloc(gpu: &Gpu<'_>) -> CUresult {
    match gpu.alloc(64) {
        Ok(address) => call!(gpu, cuMemFree_v2(address)),
        Err(code) => code,
    }
}

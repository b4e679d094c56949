//! Order among streams: default streams and blocking ones, and work of streams that are gone.

use std::ptr;

use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, OK, Seen, call, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("order/default_and_blocking_streams", default_and_blocking),
    Case::new("order/work_of_a_destroyed_stream", destroyed_stream),
    Case::new(
        "order/default_stream_after_what_is_gone",
        default_after_gone,
    ),
];

/// Long enough to be seen, on the slowest host too.
const LONG_NS: u32 = 50_000_000;

/// Whether a copy from the device, which is work of the default stream, waits for a stream.
fn copy_waits(gpu: &Gpu<'_>, long: CUstream, address: CUdeviceptr) -> bool {
    let mut host = [0_u8; 64];
    must(gpu.launch_spin(long, 1, LONG_NS));
    let code = call!(
        gpu,
        cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, host.len())
    );
    must(code);
    let done = call!(gpu, cuStreamQuery(long)) == OK;
    must(call!(gpu, cuStreamSynchronize(long)));
    done
}

/// Whether one stream waits for another: the time from its launch to its end is that of the other's work.
fn waits(gpu: &Gpu<'_>, long: CUstream, short: CUstream) -> bool {
    let (begin, end, long_end) = (gpu.event(0), gpu.event(0), gpu.event(0));
    must(call!(gpu, cuEventRecord(begin, long)));
    must(gpu.launch_spin(long, 1, LONG_NS));
    must(call!(gpu, cuEventRecord(long_end, long)));
    must(gpu.launch_empty(short));
    must(call!(gpu, cuEventRecord(end, short)));
    must(call!(gpu, cuEventSynchronize(end)));
    must(call!(gpu, cuEventSynchronize(long_end)));
    let (mut to_end, mut to_long_end) = (0.0, 0.0);
    must(call!(gpu, cuEventElapsedTime(&mut to_end, begin, end)));
    must(call!(
        gpu,
        cuEventElapsedTime(&mut to_long_end, begin, long_end)
    ));
    for event in [begin, end, long_end] {
        must(call!(gpu, cuEventDestroy_v2(event)));
    }
    to_end > to_long_end / 2.0
}

/// In the primary context the default stream and blocking streams wait for each other. In a green context that is
/// current they do not, although a stream can be made without the flag.
fn default_and_blocking(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let (address, default) = (gpu.alloc(64).unwrap(), ptr::null_mut());
    for (name, context) in [
        ("primary", gpu.primary),
        ("green", gpu.context(green).unwrap()),
    ] {
        gpu.within(context, || {
            for (kind, flags) in [("blocking", 0), ("non-blocking", 1)] {
                let mut stream = ptr::null_mut();
                let made = call!(gpu, cuStreamCreateWithPriority(&mut stream, flags, 0));
                seen.note(format!("{name}: a {kind} stream"), say(made));
                // The first launch in a stream takes longer.
                must(gpu.launch_empty(stream));
                must(gpu.launch_empty(default));
                must(call!(gpu, cuCtxSynchronize()));
                seen.note(
                    format!("{name}: the default stream waits for a {kind} one"),
                    waits(gpu, stream, default),
                );
                seen.note(
                    format!("{name}: a {kind} stream waits for the default one"),
                    waits(gpu, default, stream),
                );
                seen.note(
                    format!("{name}: a copy waits for a {kind} stream"),
                    copy_waits(gpu, stream, address),
                );
                gpu.close(stream);
            }
        });
    }
    must(call!(gpu, cuMemFree_v2(address)));
    gpu.destroy(green);
}

/// The default stream of the primary context, and the primary context's own event, after work of a blocking stream and
/// of a green context that are gone.
fn default_after_gone(gpu: &Gpu<'_>, seen: &mut Seen) {
    let (begin, end) = (gpu.event(0), gpu.event(0));
    let mut after = |what: &str, context_s: bool| {
        let code = if context_s {
            call!(gpu, cuCtxRecordEvent(gpu.primary, end))
        } else {
            call!(gpu, cuEventRecord(end, ptr::null_mut()))
        };
        must(code);
        must(call!(gpu, cuEventSynchronize(end)));
        let mut ms = 0.0;
        must(call!(gpu, cuEventElapsedTime(&mut ms, begin, end)));
        seen.note(what, ms > LONG_NS as f32 / 2e6);
        must(call!(gpu, cuCtxSynchronize()));
    };
    let busy = |stream| {
        must(gpu.launch_empty(stream));
        must(call!(gpu, cuStreamSynchronize(stream)));
        must(call!(gpu, cuEventRecord(begin, stream)));
        must(gpu.launch_spin(stream, 1, LONG_NS));
    };
    let mut blocking = ptr::null_mut();
    must(call!(gpu, cuStreamCreateWithPriority(&mut blocking, 0, 0)));
    busy(blocking);
    gpu.close(blocking);
    after("the default stream waits for a blocking one", false);
    if gpu.api.version() >= CudaVersion::new(12, 5) {
        let green = gpu.quarter();
        let stream = gpu.stream(green);
        busy(stream);
        gpu.close(stream);
        after("the primary context's event waits for a stream", true);
        let stream = gpu.stream(green);
        busy(stream);
        gpu.close(stream);
        gpu.destroy(green);
        after("the primary context's event waits for a context", true);
    }
    for event in [begin, end] {
        must(call!(gpu, cuEventDestroy_v2(event)));
    }
}

/// A green context's event is after the work of a stream that was destroyed meanwhile.
fn destroyed_stream(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let event = gpu.event(2);
    let stream = gpu.stream(green);
    must(gpu.launch_empty(stream));
    must(call!(gpu, cuStreamSynchronize(stream)));
    must(gpu.launch_spin(stream, 1, LONG_NS));
    gpu.close(stream);
    must(call!(gpu, cuGreenCtxRecordEvent(green, event)));
    seen.code("right after", call!(gpu, cuEventQuery(event)));
    must(call!(gpu, cuEventSynchronize(event)));
    seen.code("waited for", call!(gpu, cuEventQuery(event)));
    must(call!(gpu, cuEventDestroy_v2(event)));
    gpu.destroy(green);
}

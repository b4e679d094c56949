//! Things of two devices where they meet.

use std::{ffi::CString, ptr};

use cuda_green::kernels;
use cuda_green_sys::*;

use crate::{
    Case,
    gpu::{Gpu, Seen, SmIdsArgs, call, must},
};

pub const CASES: &[Case] = &[
    Case::new("two_devices/events", events).devices(2),
    Case::new("two_devices/kernels", kernels_of_both).devices(2),
];

/// The second device, whose primary context is retained and current while the work is done.
fn on_second(gpu: &Gpu<'_>, seen: &mut Seen, work: impl FnOnce(&mut Seen, CUdevice)) {
    let (mut second, mut primary) = (0, ptr::null_mut());
    must(call!(gpu, cuDeviceGet(&mut second, 1)));
    must(call!(gpu, cuDevicePrimaryCtxRetain(&mut primary, second)));
    gpu.within(primary, || work(seen, second));
    must(call!(gpu, cuDevicePrimaryCtxRelease_v2(second)));
}

fn events(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let (own, own_stream) = (gpu.event(0), gpu.stream(green));
    on_second(gpu, seen, |seen, _| {
        let (foreign, foreign_stream) = (gpu.event(0), gpu.stream_here());
        let code = call!(gpu, cuEventRecord(foreign, own_stream));
        seen.code("record in a stream of the other", code);
        let code = call!(gpu, cuGreenCtxRecordEvent(green, foreign));
        seen.code("record a context of the other", code);
        must(call!(gpu, cuEventRecord(foreign, foreign_stream)));
        must(call!(gpu, cuEventRecord(own, own_stream)));
        let code = call!(gpu, cuStreamWaitEvent(own_stream, foreign, 0));
        seen.code("a stream of the other waits", code);
        let code = call!(gpu, cuGreenCtxWaitEvent(green, foreign));
        seen.code("a context of the other waits", code);
        seen.code("synchronize", call!(gpu, cuEventSynchronize(own)));
        must(call!(gpu, cuEventSynchronize(foreign)));
        let mut ms = 0.0;
        let code = call!(gpu, cuEventElapsedTime(&mut ms, own, foreign));
        seen.code("time between both", code);
        must(call!(gpu, cuStreamSynchronize(own_stream)));
        must(call!(gpu, cuEventDestroy_v2(foreign)));
        gpu.close(foreign_stream);
    });
    gpu.close(own_stream);
    must(call!(gpu, cuEventDestroy_v2(own)));
    gpu.destroy(green);
}

fn kernels_of_both(gpu: &Gpu<'_>, seen: &mut Seen) {
    let own_stream = gpu.stream_here();
    on_second(gpu, seen, |seen, _| {
        let ptx = CString::new(kernels::PTX).unwrap();
        let mut module = ptr::null_mut();
        must(call!(
            gpu,
            cuModuleLoadData(&mut module, ptx.as_ptr().cast())
        ));
        let kernel = gpu.function(module, c"cuda_green_sm_ids").unwrap();
        let stream = gpu.stream_here();
        let launch = |kernel, stream| {
            let mut args = SmIdsArgs::new(0, 0, 0);
            gpu.launch(kernel, stream, 1, 64, &mut args.pointers())
        };
        seen.code("the second's on the second", launch(kernel, stream));
        seen.code("the first's on the second", launch(gpu.sm_ids, stream));
        seen.code("the second's on the first", launch(kernel, own_stream));
        seen.code("the first's on the first", launch(gpu.sm_ids, own_stream));
        for stream in [stream, own_stream] {
            seen.code(
                format!(
                    "wait for the {}",
                    if stream == own_stream {
                        "first"
                    } else {
                        "second"
                    }
                ),
                call!(gpu, cuStreamSynchronize(stream)),
            );
        }
        gpu.close(stream);
        must(call!(gpu, cuModuleUnload(module)));
    });
    gpu.close(own_stream);
}

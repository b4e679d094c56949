//! Ends in every order: what each object answers once others are gone.

use std::ptr;

use crate::{
    Case,
    gpu::{Gpu, Seen, call, must, say},
};

pub const CASES: &[Case] = &[
    Case::new("teardown/every_order", every_order),
    Case::new("teardown/primary_first", primary_first).rough(),
    Case::new("teardown/primary_last", primary_last).rough(),
];

/// All orders of these.
fn orders<const N: usize>() -> Vec<[usize; N]> {
    let mut all = Vec::new();
    let mut order: [usize; N] = std::array::from_fn(|index| index);
    fn permute<const N: usize>(order: &mut [usize; N], from: usize, all: &mut Vec<[usize; N]>) {
        if from == N {
            all.push(*order);
            return;
        }
        for index in from..N {
            order.swap(from, index);
            permute(order, from + 1, all);
            order.swap(from, index);
        }
    }
    permute(&mut order, 0, &mut all);
    all.sort_unstable();
    all
}

/// A stream, an event, memory and their green context, destroyed in each of the 24 orders.
fn every_order(gpu: &Gpu<'_>, seen: &mut Seen) {
    const NAMES: [&str; 4] = ["stream", "event", "memory", "context"];
    for order in orders::<4>() {
        let green = gpu.quarter();
        let stream = gpu.stream(green);
        let context = gpu.context(green).unwrap();
        let (event, address) = gpu.within(context, || (gpu.event(0), gpu.alloc(4096).unwrap()));
        must(call!(gpu, cuMemsetD8Async(address, 1, 4096, stream)));
        must(gpu.launch_empty(stream));
        must(call!(gpu, cuEventRecord(event, stream)));
        let codes = order.map(|index| match index {
            0 => call!(gpu, cuStreamDestroy_v2(stream)),
            1 => call!(gpu, cuEventDestroy_v2(event)),
            2 => call!(gpu, cuMemFree_v2(address)),
            _ => call!(gpu, cuGreenCtxDestroy(green)),
        });
        seen.note(
            order.map(|index| NAMES[index]).join(", "),
            codes.map(say).join(", "),
        );
    }
}

fn state(gpu: &Gpu<'_>) -> String {
    let (mut flags, mut active) = (9, 9);
    let code = call!(
        gpu,
        cuDevicePrimaryCtxGetState(gpu.device, &mut flags, &mut active)
    );
    format!("{} {active}", say(code))
}

/// The last retain of the primary context is given back while a green context lives.
fn primary_first(gpu: &Gpu<'_>, seen: &mut Seen) {
    let green = gpu.quarter();
    let stream = gpu.stream(green);
    let (event, address) = (gpu.event(2), gpu.alloc(4096).unwrap());
    let release = || call!(gpu, cuDevicePrimaryCtxRelease_v2(gpu.device));
    seen.code("release", release());
    seen.note("state", state(gpu));
    seen.note("still current", gpu.current() == gpu.primary as usize);
    seen.code("green stream", call!(gpu, cuStreamQuery(stream)));
    seen.code("event", call!(gpu, cuEventQuery(event)));
    let mut device = -1;
    seen.code("device", call!(gpu, cuCtxGetDevice(&mut device)));
    seen.code("launch", gpu.launch_empty(stream));
    seen.code("memory", call!(gpu, cuMemFree_v2(address)));
    seen.code("release again", release());
    seen.code("stream", call!(gpu, cuStreamDestroy_v2(stream)));
    seen.code("context", call!(gpu, cuGreenCtxDestroy(green)));
    seen.note("state at the end", state(gpu));
    seen.code("pop", call!(gpu, cuCtxPopCurrent_v2(ptr::null_mut())));
    let mut again = ptr::null_mut();
    let code = call!(gpu, cuDevicePrimaryCtxRetain(&mut again, gpu.device));
    seen.note(
        "retained again",
        format!("{} {}", say(code), again == gpu.primary),
    );
    seen.code("current again", call!(gpu, cuCtxPushCurrent_v2(again)));
    seen.code("synchronize again", call!(gpu, cuCtxSynchronize()));
}

/// Everything goes but the streams and events of the primary context, and then the context itself.
fn primary_last(gpu: &Gpu<'_>, seen: &mut Seen) {
    let (stream, event) = (gpu.stream_here(), gpu.event(2));
    let address = gpu.alloc(4096).unwrap();
    seen.code(
        "release",
        call!(gpu, cuDevicePrimaryCtxRelease_v2(gpu.device)),
    );
    seen.note("state", state(gpu));
    seen.code(
        "release again",
        call!(gpu, cuDevicePrimaryCtxRelease_v2(gpu.device)),
    );
    let mut device = -1;
    seen.note("still current", gpu.current() == gpu.primary as usize);
    seen.code("pop", call!(gpu, cuCtxPopCurrent_v2(ptr::null_mut())));
    seen.code("push", call!(gpu, cuCtxPushCurrent_v2(gpu.primary)));
    seen.code("device", call!(gpu, cuCtxGetDevice(&mut device)));
    seen.code("memory", call!(gpu, cuMemFree_v2(address)));
    seen.code("event", call!(gpu, cuEventQuery(event)));
    seen.code("stream query", call!(gpu, cuStreamQuery(stream)));
    seen.code("stream", call!(gpu, cuStreamDestroy_v2(stream)));
}

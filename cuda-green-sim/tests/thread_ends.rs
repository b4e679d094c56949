//! Calls from the destructors of thread keys, as C libraries make them, when the thread's Rust values are gone.
//!
//! A test binary of its own, because the test counts the panics of the whole process with a hook.

#![cfg(all(unix, not(miri)))] // Miri knows no destructors of keys beside Rust's own
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)] // see `client::Client`

mod client;

use std::{
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use client::*;
use cuda_green_sys::*;

/// The calls that a thread makes at its end.
struct Last {
    api: Api,
    primary: CUcontext,
    stream: CUstream,
    codes: Vec<(&'static str, CUresult)>,
    /// The round of key destructors in which it calls: one round is over before the next begins.
    round: usize,
    key: libc::pthread_key_t,
    done: std::sync::mpsc::Sender<Vec<(&'static str, CUresult)>>,
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn at_the_end(last: *mut c_void) {
    let mut last = unsafe { Box::from_raw(last.cast::<Last>()) };
    if last.round > 0 {
        last.round -= 1;
        let key = last.key;
        let set = unsafe { libc::pthread_setspecific(key, Box::into_raw(last).cast()) };
        assert_eq!(set, 0);
        return;
    }
    let (stream, primary) = (last.stream, last.primary);
    let per_thread = ptr::without_provenance_mut(2);
    let (mut found, mut graph) = (ptr::null_mut(), ptr::null_mut());
    let global = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    let api = &last.api;
    let codes = unsafe {
        [
            ("push", api.cuCtxPushCurrent_v2(primary)),
            ("current", api.cuCtxGetCurrent(&mut found)),
            ("per thread", api.cuStreamSynchronize(per_thread)),
            ("begin", api.cuStreamBeginCapture_v2(stream, global)),
            ("end", api.cuStreamEndCapture(stream, &mut graph)),
            ("wait", api.cuStreamSynchronize(stream)),
            ("pop", api.cuCtxPopCurrent_v2(&mut found)),
        ]
    };
    let codes = codes.map(|(name, code)| (name, code.unwrap()));
    last.codes.extend(codes);
    if !graph.is_null() {
        let code = unsafe { last.api.cuGraphDestroy(graph) };
        last.codes.push(("graph", code.unwrap()));
    }
    let _ = last.done.send(last.codes);
}

extern "C" fn only_a_key(key: *mut c_void) -> *mut c_void {
    let (key, last) = unsafe { *Box::from_raw(key.cast::<(libc::pthread_key_t, Box<Last>)>()) };
    let set = unsafe { libc::pthread_setspecific(key, Box::into_raw(last).cast()) };
    assert_eq!(set, 0);
    ptr::null_mut()
}

/// No call panics, and those that need no current context return what they always do, on threads made by Rust and by
/// C.
#[test]
fn the_destructors_of_keys_can_call() {
    std::panic::set_hook(Box::new(|_| {
        PANICS.fetch_add(1, Ordering::Relaxed);
    }));
    let client = Client::new("h200@13.0");
    let mut stream = ptr::null_mut();
    ok!(client, cuStreamCreateWithPriority(&mut stream, 1, 0));
    let mut key = 0;
    assert_eq!(
        unsafe { libc::pthread_key_create(&mut key, Some(at_the_end)) },
        0
    );
    for (of_c, round) in [(false, 0), (true, 0), (false, 2), (true, 2)] {
        let (done, codes) = std::sync::mpsc::channel();
        let last = Box::new(Last {
            api: client.sim.api().unwrap(),
            primary: client.primary,
            stream,
            codes: Vec::new(),
            round,
            key,
            done,
        });
        let argument = Box::into_raw(Box::new((key, last))) as usize;
        if of_c {
            let mut thread = unsafe { std::mem::zeroed() };
            let argument = argument as *mut c_void;
            let code =
                unsafe { libc::pthread_create(&mut thread, ptr::null(), only_a_key, argument) };
            assert_eq!(code, 0);
            assert_eq!(unsafe { libc::pthread_join(thread, ptr::null_mut()) }, 0);
        } else {
            let thread = std::thread::spawn(move || {
                let _ = std::thread::current().id();
                only_a_key(argument as *mut c_void);
            });
            thread.join().unwrap();
        }
        let codes = codes.recv().unwrap();
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{codes:?}");
        for (name, code) in codes {
            let without_context = ["per thread", "pop"].contains(&name);
            let fine =
                code == OK || (without_context && code == CUresult::CUDA_ERROR_INVALID_CONTEXT);
            assert!(fine, "{name}: {code}, a thread of C: {of_c}, round {round}");
        }
    }
    ok!(client, cuStreamDestroy_v2(stream));
    client.finish();
}

//! Calls in a forked child of a process that had initialised the driver: every call returns 3, and none hangs.
//!
//! A test binary of its own, because only the test's threads may hold locks at the fork.

#![cfg(target_os = "linux")]
#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)] // see `client::Client`

mod client;

use std::{
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use client::*;
use cuda_green_sys::*;

/// Other threads keep the parent busy, so its locks are held at some forks.
#[test]
fn a_forked_child_is_told_and_does_not_hang() {
    let client = Client::new("h200@13.0");
    let (api, done) = (&client.api, AtomicBool::new(false));
    let primary = client.primary as usize;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut event = ptr::null_mut();
                    let _ = unsafe { api.cuCtxSetCurrent(ptr::without_provenance_mut(primary)) };
                    let _ = unsafe { api.cuEventCreate(&mut event, 2) };
                    let _ = unsafe { api.cuEventDestroy_v2(event) };
                }
            });
        }
        for _ in 0..20 {
            // SAFETY: the child calls the simulated driver, which checks for a fork before it takes a lock, and exits
            // without running any code of its parent.
            let child = unsafe { libc::fork() };
            if child == 0 {
                unsafe { libc::alarm(20) };
                let mut event = ptr::null_mut();
                let code = unsafe { api.cuEventCreate(&mut event, 2) };
                let expected = matches!(code, Ok(CUresult::CUDA_ERROR_NOT_INITIALIZED));
                unsafe { libc::_exit(if expected { 0 } else { 1 }) };
            }
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child hung, or was answered otherwise");
        }
        done.store(true, Ordering::Relaxed);
    });
    client.finish();
}

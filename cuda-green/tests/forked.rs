//! A process that is forked after CUDA was initialised: the driver answers every call of the child's with
//! `CUDA_ERROR_NOT_INITIALIZED`, and the error says why.

#![cfg(all(unix, not(miri)))] // Miri cannot fork
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::io::{Read, Write};

use cuda_green::{Driver, DriverSpec, Error, GpuMemoryPool, Result, sys::CUresult};

/// What the child says of a call, which is made in a process that was forked from this one.
fn in_a_child(call: impl FnOnce() -> Result<()>) -> String {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: the child makes one call, writes what that said and ends; no other thread of this test's holds a
    // lock that it needs.
    match unsafe { libc::fork() } {
        0 => {
            let said = match call() {
                Ok(()) => "success".to_owned(),
                Err(error @ Error::Forked { .. }) => format!("forked: {error}"),
                Err(error) => format!("another error: {error}"),
            };
            let code = i32::from(writer.write_all(said.as_bytes()).is_err());
            // SAFETY: nothing of this process's is to be ended in order; that is the parent's.
            unsafe { libc::_exit(code) }
        }
        child => {
            assert!(child > 0);
            drop(writer);
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            let mut status = 0;
            // SAFETY: the child is this process's, and the output is valid.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "{said}");
            said
        }
    }
}

#[test]
fn the_error_of_a_forked_child_says_that_it_was_forked() {
    let spec: DriverSpec = "sim:h200@13.0".parse().unwrap();
    let driver = Driver::open(&spec).unwrap();
    // Before anything is initialised a child is as good as its parent.
    assert_eq!(in_a_child(|| driver.device(0).map(drop)), "success");

    let device = driver.device(0).unwrap();
    let pool = GpuMemoryPool::on(&device, 1 << 20).unwrap();
    for (call, said) in [
        (
            "cuInit", // of one that is opened in the child
            in_a_child(|| Driver::open(&spec)?.device_count().map(drop)),
        ),
        (
            "cuDeviceGetCount",
            in_a_child(|| driver.device_count().map(drop)),
        ),
        (
            "cuCtxPushCurrent",
            in_a_child(|| device.free_memory().map(drop)),
        ),
    ] {
        assert!(said.starts_with("forked"), "{call}: {said}");
        assert!(
            said.contains(&format!("{call} failed: this process was forked after")),
            "{said}"
        );
        assert!(said.contains("in the child only"), "{said}");
    }

    // The parent is none, whatever its driver answers.
    let code = CUresult::CUDA_ERROR_NOT_INITIALIZED;
    let simulator = driver.simulator().unwrap();
    simulator.fail("cuDeviceGetCount", 1, code).unwrap();
    let error = driver.device_count().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Driver {
                code: CUresult::CUDA_ERROR_NOT_INITIALIZED,
                ..
            }
        ),
        "{error}"
    );
    drop(pool);
}

//! A forked child of a process that had initialised CUDA: each call is an error that says so.

#![cfg(unix)]

use std::io::{Read, Write};

use cuda_green::{Driver, Error, GpuMemoryPool, Result};

use crate::Case;

pub const CASES: &[Case] = &[("forks/a_child_is_told_that_it_was_forked", forked)];

fn forked(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, 1 << 20)?;
    // The parent is at work, and goes on with it.
    let buffer = pool.allocate(4096)?;
    // One that has to ask the driver for its memory: what a pool has already, a child can have without a call.
    let other = GpuMemoryPool::on(&device, 1 << 20)?;
    if driver.is_simulated() {
        // Beside other simulated drivers' threads, a child could find a lock of theirs taken for good. The same is
        // tested with a simulated driver by `cuda-green/tests/forked.rs`, where no other thread is.
        return Ok(());
    }
    let calls: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("free memory", &|| device.free_memory().map(drop)),
        ("allocate", &|| other.allocate(4096).map(drop)),
        ("count devices", &|| driver.device_count().map(drop)),
    ];
    for (what, call) in calls {
        let said = in_a_child(call);
        assert!(said.starts_with("forked"), "{what}: {said}");
    }
    buffer.fill(7)?;
    let mut bytes = [0; 4096];
    buffer.copy_to(&mut bytes)?;
    assert_eq!(bytes, [7; 4096]);
    pool.allocate(8192).map(drop)
}

/// What a call says in a child, which ends without a word if that takes longer than ten seconds.
fn in_a_child(call: &dyn Fn() -> Result<()>) -> String {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: the child makes one call, writes what that said, and ends without running anything of the parent's.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: the function takes a number.
            unsafe { libc::alarm(10) };
            let said = match call() {
                Ok(()) => "it succeeded".to_owned(),
                Err(error @ Error::Forked { .. }) => format!("forked: {error}"),
                Err(error) => format!("another error: {error}"),
            };
            let code = i32::from(writer.write_all(said.as_bytes()).is_err());
            // SAFETY: it ends this process, whose memory is a copy that nobody else has.
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

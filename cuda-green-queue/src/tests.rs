//! Tests of the host side: on simulated drivers, whose kernels are Rust functions on threads of their own, and on CPU
//! threads alone.

mod counts;
mod cpu;
mod ends;
#[cfg(any(feature = "serde", feature = "tracing"))]
mod facades;
mod faults;
mod figures;
pub(crate) mod gpu;
mod hostile;
mod idle;
mod kernels;
mod made;
mod pollers;
mod sleeping;

use bytemuck::{Pod, Zeroable};

use crate::{HostTask, Task, TaskFailure, TaskQueueBuilder};

/// Doubles a number. Handlers run on workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Double(pub(crate) u64);

impl Task for Double {
    const METHOD: u16 = 3;
    type Output = u64;
}

/// Adds one. Handlers run on the polling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Increment(u32);

impl Task for Increment {
    const METHOD: u16 = 0;
    type Output = u32;
}

/// Fails with the code, or panics if that is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Fail(u32);

impl Task for Fail {
    const METHOD: u16 = 0xFFFE;
    type Output = [u32; 4];
}

/// A value that is no plain data.
#[derive(Debug, PartialEq, Eq)]
struct Name(String);

impl HostTask for Name {
    type Output = String;
}

fn fail(Fail(code): Fail) -> Result<[u32; 4], TaskFailure> {
    if code == 0 {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
    Err(TaskFailure(code))
}

/// A small queue with all handlers.
pub(crate) fn builder() -> TaskQueueBuilder {
    TaskQueueBuilder::default()
        .handler(|Double(n)| Ok(n.wrapping_mul(2)))
        .inline_handler(|Increment(n)| Ok(n.wrapping_add(1)))
        .handler(fail)
        .host_handler(|Name(name)| Ok(format!("Hello, {name}")))
        .lanes(2)
        .priorities(3)
        .depth(16)
        .futures(64)
        .cpu_depth(16)
        .workers(2)
        .segment_bytes(1 << 20)
}

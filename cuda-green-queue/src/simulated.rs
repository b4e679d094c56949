//! The device side in Rust, for the bodies of the simulator's kernels (feature `test-utils`).
//!
//! A kernel that is registered with `Sim::register_concurrent_kernel` runs beside its caller, so it can wait for a queue
//! as one on a GPU does. What `cuda_green_queue.cuh` does with a `Queue`, a `Future` and an `Inbox` is here what
//! [`DeviceSide`], [`DeviceFuture`] and [`InboxSide`] do, step for step. Waits have no deadline: they end when the kernel
//! is stopped.
//!
//! ```
//! use cuda_green_queue::{Task, simulated::{DeviceSide, Place}};
//! # use bytemuck::{Pod, Zeroable};
//! # #[derive(Clone, Copy, Pod, Zeroable)]
//! # #[repr(C)]
//! # struct Lookup { page: u64 }
//! # impl Task for Lookup {
//! #     const METHOD: u16 = 7;
//! #     type Output = u64;
//! # }
//! let sim = cuda_green::sim::Sim::new("h200@13.0")?;
//! sim.register_concurrent_kernel("asks", |launch| {
//!     let Some(queue) = DeviceSide::argument(launch, 0) else {
//!         return;
//!     };
//!     let answer = queue.call(Place::default(), &Lookup { page: 1 });
//!     let _ = answer.and_then(|mut future| future.wait());
//! });
//! # Ok::<(), cuda_green::sim::Error>(())
//! ```

mod inbox;
mod queue;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use cuda_green::{Driver, Kernel};

pub use inbox::{InboxSide, InboxTask, Next};
pub use queue::{DeviceFuture, DeviceSide, Place};

/// What a kernel learns of a task that it submitted, in place of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Status {
    /// The answer has not arrived.
    #[error("the answer has not arrived")]
    Pending,
    /// The handler returned a failure with this code.
    #[error("the handler failed with code {0}")]
    Failed(u32),
    /// The handler panicked.
    #[error("the handler panicked")]
    Panicked,
    /// No handler has the task's method number.
    #[error("no handler has the task's method number")]
    UnknownMethod,
    /// The payload is not of the length that the method's task type has.
    #[error("the payload is not of the length of the method's task type")]
    BadPayload,
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
    /// There is no room now.
    #[error("the queue is full")]
    Full,
    /// The queue has no such lane or priority, or no room for such a task or output; or the answer is none that the
    /// output's type can have.
    #[error("the queue has no such place, or no room for such a task")]
    Invalid,
    /// The kernel was stopped, or an access to memory failed.
    #[error("the kernel was stopped")]
    Stopped,
}

/// Warns, once for each name, of a kernel that does nothing on a simulated driver, so that no task will come of it.
pub(crate) fn warn_without_body(driver: &Driver, kernel: &Kernel) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let name = kernel.name();
    if driver
        .simulator()
        .is_none_or(|simulator| simulator.has_kernel(name))
    {
        return;
    }
    let is_new = WARNED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(name.to_owned());
    if is_new {
        log::warn!(
            "the kernel {name} does nothing on this simulated driver: register its body with `Sim::register_concurrent_kernel`"
        );
    }
}

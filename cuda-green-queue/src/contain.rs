//! Panics of clients' code on the queue's threads: of handlers, of wakers, and of tasks and outputs when they are dropped.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    /// Panics that [`contain`] has caught on this thread since they were counted.
    static CAUGHT: Cell<u64> = const { Cell::new(0) };
}

/// Runs code of a client that is no handler. A panic ends there, is logged, and waits to be counted.
#[inline]
pub(crate) fn contain(what: &str, code: impl FnOnce()) {
    // Such code leaves only values of its own behind.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
        let _ = CAUGHT.try_with(|caught| caught.set(caught.get() + 1));
        discard(panic, || {
            log::error!("{what} panicked on a thread of a queue")
        });
    }
}

/// Returns how many panics [`contain`] has caught on this thread since the last call.
#[inline]
pub(crate) fn take_caught() -> u64 {
    CAUGHT
        .try_with(|caught| match caught.get() {
            0 => 0,
            some => {
                caught.set(0);
                some
            }
        })
        .unwrap_or(0)
}

/// Says that a handler panicked, and drops what with, which may panic in turn.
#[cold]
pub(crate) fn discard_handlers(task: &str, panic: Box<dyn Any + Send>) {
    discard(panic, || {
        log::warn!("a handler for {task} panicked; its task failed");
        crate::events::emit(crate::events::QueueEvent::Panicked { task });
    });
}

/// Drops what a panic came with, and runs code of a logger or a subscriber. Both may panic.
#[cold]
fn discard(panic: Box<dyn Any + Send>, say: impl FnOnce()) {
    let rest = AssertUnwindSafe(|| {
        drop(panic);
        say();
    });
    if let Err(another) = catch_unwind(rest) {
        std::mem::forget(another);
    }
}

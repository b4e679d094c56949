//! A guard's changes to this thread's context stack, and their undoing.

use std::{cell::Cell, sync::Arc};

use cuda_green_sys::{CUcontext, CUresult, MissingEntryPoint};

use crate::{
    driver::{Driver, name},
    error::{Error, Result},
    partition::{ContextInner, Sibling},
};

thread_local! {
    /// Number of guards of this thread that have not ended. Its address identifies the thread.
    pub(super) static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Number of those that were dropped before the guards above them.
    pub(super) static PENDING_COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The state of an active guard.
pub(super) struct Entered {
    /// The guard's position in its thread's stack, from 1; 0 once the guard has ended.
    pub(super) depth: usize,
    pub(super) held: Held,
    pub(super) change: StackChange,
}

/// A guard's change of the driver's context stack of this thread.
#[derive(Clone, Copy)]
pub(super) struct StackChange {
    previous: CUcontext,
    pub(super) current: CUcontext,
}

/// The green context that the thread holds: a sibling, or with `None` the main one, or the primary context in
/// single-context mode. It is one machine word, so that a guard is passed in registers.
pub(super) struct Held(pub(super) Option<Arc<Sibling>>);

/// The reason why a guard could not begin. It is small and becomes an [`Error`] only if needed: beside driver calls
/// of a few nanoseconds, moving a large `Result` around would be measurable.
pub(super) enum BeginFailure {
    Poisoned,
    Call(&'static str, Answer),
    Sibling(Box<Error>),
}

/// The reason why a guard could not end as usual.
pub(super) enum EndFailure {
    /// There are guards above it, or guards below it wait for it to end.
    OutOfOrder,
    /// The pop failed, or gave another context.
    UnexpectedPop(Answer, CUcontext),
}

/// The driver's answer to a call, before it is made into an [`Error`].
pub(super) type Answer = std::result::Result<CUresult, MissingEntryPoint>;

#[inline]
fn is_success(answer: &Answer) -> bool {
    matches!(answer, Ok(CUresult::CUDA_SUCCESS))
}

impl Entered {
    /// Pushes the context onto this thread's stack.
    #[inline]
    pub(super) fn begin(context: &ContextInner) -> std::result::Result<Self, BeginFailure> {
        let driver = context.driver();
        if driver.is_poisoned() {
            return Err(BeginFailure::Poisoned);
        }
        let mut previous = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        let answer = unsafe { driver.api().cuCtxGetCurrent(&mut previous) };
        if !is_success(&answer) {
            return Err(BeginFailure::Call(name::cuCtxGetCurrent, answer));
        }
        let (held, current) = Held::acquire(context).map_err(BeginFailure::Sibling)?;
        // SAFETY: the context is live: this thread holds it, and the guard keeps it alive.
        let answer = unsafe { driver.api().cuCtxPushCurrent_v2(current) };
        if !is_success(&answer) {
            held.release(context);
            return Err(BeginFailure::Call(name::cuCtxPushCurrent_v2, answer));
        }
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        Ok(Self {
            depth,
            held,
            change: StackChange { previous, current },
        })
    }

    /// Restores the previous current context, if the stack is as expected.
    #[inline]
    pub(super) fn end(&mut self, context: &ContextInner) -> std::result::Result<(), EndFailure> {
        if DEPTH.get() != self.depth || PENDING_COUNT.get() > 0 {
            return Err(EndFailure::OutOfOrder);
        }
        let popped = self.pop(context);
        popped.map_err(|(answer, popped)| EndFailure::UnexpectedPop(answer, popped))
    }

    /// Pops the context and releases it. If another context was popped, the release is left to the caller.
    #[inline]
    fn pop(&mut self, context: &ContextInner) -> std::result::Result<(), (Answer, CUcontext)> {
        DEPTH.set(self.depth - 1);
        self.depth = 0;
        let mut popped = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        let answer = unsafe { context.driver().api().cuCtxPopCurrent_v2(&mut popped) };
        if !is_success(&answer) || popped != self.change.current {
            return Err((answer, popped));
        }
        self.held.release(context);
        Ok(())
    }

    /// Pops the context, and restores the previous one also if another was popped.
    pub(super) fn pop_and_restore(&mut self, context: &ContextInner) -> Result<()> {
        match self.pop(context) {
            Ok(()) => Ok(()),
            Err((answer, popped)) => self.restore(context, answer, popped),
        }
    }

    /// Restores the previous current context after an unexpected pop.
    pub(super) fn restore(
        &mut self,
        context: &ContextInner,
        answer: Answer,
        popped: CUcontext,
    ) -> Result<()> {
        let driver = context.driver();
        let restored = match answer {
            // Foreign code had emptied the stack.
            Ok(CUresult::CUDA_ERROR_INVALID_CONTEXT) => self.change.undo(driver, None),
            answer => driver
                .check(name::cuCtxPopCurrent_v2, answer)
                .and_then(|()| self.change.undo(driver, Some(popped))),
        };
        self.held.release(context);
        restored
    }
}

impl BeginFailure {
    /// Makes the error of this failure.
    #[cold]
    pub(super) fn into_error(self, driver: &Driver) -> Error {
        let error = match self {
            Self::Poisoned => driver.check_fault(),
            Self::Call(call, answer) => driver.check(call, answer),
            Self::Sibling(error) => return *error,
        };
        // There is always an error here, because something failed.
        error.err().unwrap_or(Error::GuardActive)
    }
}

impl StackChange {
    /// Restores the context that was current before, after foreign code changed the stack: `popped`, if anything, is
    /// not our context. Pops what foreign code pushed above ours, or pushes back what it popped.
    fn undo(self, driver: &Driver, popped: Option<CUcontext>) -> Result<()> {
        /// Number of contexts that are popped in search of ours; deeper stacks are not expected.
        const MAX_POPPED: usize = 64;
        if popped.is_some() && current(driver)? == self.previous {
            // Foreign code replaced ours (`cuCtxSetCurrent`), and the pop removed the replacement.
            return Err(Error::ForeignContext);
        }
        let mut above = Vec::from_iter(popped);
        while above.len() < MAX_POPPED && !current(driver)?.is_null() {
            let popped = pop(driver)?;
            if popped == self.current {
                // Ours was below what foreign code pushed; the previous context is on top now.
                return Err(Error::ForeignContext);
            }
            above.push(popped);
        }
        // Foreign code popped ours. Push back what was popped in search of it.
        while let Some(context) = above.pop() {
            // SAFETY: this context was on the stack a moment ago, so it is as live as it was then.
            unsafe { driver.cuCtxPushCurrent_v2(context) }?;
        }
        if current(driver)? != self.previous {
            // SAFETY: this context was current when the guard began; null is allowed.
            unsafe { driver.cuCtxSetCurrent(self.previous) }?;
        }
        Err(Error::ForeignContext)
    }
}

impl Held {
    /// Acquires a context for this thread, the main one or a sibling, and returns it with its handle.
    #[inline]
    pub(super) fn acquire(
        context: &ContextInner,
    ) -> std::result::Result<(Self, CUcontext), Box<Error>> {
        let Some(partition) = &context.partition else {
            // This crate never destroys the primary context, so its users need not be counted.
            let primary = context.device.raw_primary_context();
            return Ok((Self(None), primary.map_err(Box::new)?));
        };
        let thread = thread();
        if partition.shared {
            partition.contexts.main.acquire_shared();
        } else if !partition.contexts.main.acquire(thread) {
            let sibling = partition.sibling(&context.device, thread);
            let sibling = sibling.map_err(Box::new)?;
            let raw = sibling.context.context;
            return Ok((Self(Some(sibling)), raw));
        }
        Ok((Self(None), partition.context()))
    }

    /// Releases the context.
    #[inline]
    pub(super) fn release(&self, context: &ContextInner) {
        if let Self(Some(sibling)) = self {
            sibling.release();
        } else if let Some(partition) = &context.partition {
            if partition.shared {
                partition.contexts.main.release_shared();
            } else {
                partition.contexts.main.release_biased();
            }
        }
    }
}

/// Returns the thread's current context.
fn current(driver: &Driver) -> Result<CUcontext> {
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the one handle that is written.
    unsafe { driver.cuCtxGetCurrent(&mut context) }?;
    Ok(context)
}

/// Pops the thread's current context.
fn pop(driver: &Driver) -> Result<CUcontext> {
    let mut popped = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the one handle that is written.
    unsafe { driver.cuCtxPopCurrent_v2(&mut popped) }?;
    Ok(popped)
}

/// Returns a number that is unique among the live threads and never 0.
#[inline]
fn thread() -> usize {
    DEPTH.with(|depth| std::ptr::from_ref(depth) as usize)
}

//! What a guard does to this thread's context stack, and how that is undone.

use std::{cell::Cell, sync::Arc};

use cuda_green_sys::{CUcontext, CUresult, MissingEntryPoint};

use crate::{
    driver::{Driver, name},
    error::{Error, Result},
    partition::{ContextInner, Seat},
};

thread_local! {
    /// How many guards of this thread have not been unwound. Its address names the thread.
    pub(super) static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// How many of them were dropped before those above them.
    pub(super) static ORPHANED: Cell<usize> = const { Cell::new(0) };
}

/// What a guard took and changed.
pub(super) struct Entered {
    /// Which guard of its thread it is, from 1; 0 once it has ended.
    pub(super) depth: usize,
    pub(super) seat: Taken,
    pub(super) change: Change,
}

/// What a guard changed on the driver's stack for this thread.
#[derive(Clone, Copy)]
pub(super) struct Change {
    previous: CUcontext,
    pub(super) current: CUcontext,
}

/// Which of a context's seats the thread has: a sibling, or the main one, if its context has seats at all.
/// One word, so that a guard is handed around in registers.
pub(super) struct Taken(pub(super) Option<Arc<Seat>>);

/// Why a guard could not begin. Small, and made into an error apart: where the driver takes a few
/// nanoseconds, moving an error about that is not there would be seen.
pub(super) enum Refusal {
    Poisoned,
    Call(&'static str, Answer),
    Seat(Box<Error>),
}

/// Why a guard could not end as it should.
pub(super) enum Trouble {
    /// There are guards above it, or orphans below.
    OutOfOrder,
    /// What the driver popped instead.
    Popped(Answer, CUcontext),
}

pub(super) type Answer = std::result::Result<CUresult, MissingEntryPoint>;

#[inline]
fn is_success(answer: &Answer) -> bool {
    matches!(answer, Ok(CUresult::CUDA_SUCCESS))
}

impl Entered {
    /// Pushes the context onto this thread's stack.
    #[inline]
    pub(super) fn begin(context: &ContextInner) -> std::result::Result<Self, Refusal> {
        let driver = context.driver();
        if driver.is_poisoned() {
            return Err(Refusal::Poisoned);
        }
        let mut previous = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        let answer = unsafe { driver.api().cuCtxGetCurrent(&mut previous) };
        if !is_success(&answer) {
            return Err(Refusal::Call(name::cuCtxGetCurrent, answer));
        }
        let (seat, current) = Taken::take(context).map_err(Refusal::Seat)?;
        // SAFETY: the context is live: the seat is ours, and the guard keeps it.
        let answer = unsafe { driver.api().cuCtxPushCurrent_v2(current) };
        if !is_success(&answer) {
            seat.leave(context);
            return Err(Refusal::Call(name::cuCtxPushCurrent_v2, answer));
        }
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        Ok(Self {
            depth,
            seat,
            change: Change { previous, current },
        })
    }

    /// Restores what was current, if nothing is in the way.
    #[inline]
    pub(super) fn end(&mut self, context: &ContextInner) -> std::result::Result<(), Trouble> {
        if DEPTH.get() != self.depth || ORPHANED.get() > 0 {
            return Err(Trouble::OutOfOrder);
        }
        let popped = self.pop(context);
        popped.map_err(|(answer, popped)| Trouble::Popped(answer, popped))
    }

    /// Pops the context and leaves the seat; all but that is left where something else was popped.
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
        self.seat.leave(context);
        Ok(())
    }

    pub(super) fn pop_and_mend(&mut self, context: &ContextInner) -> Result<()> {
        match self.pop(context) {
            Ok(()) => Ok(()),
            Err((answer, popped)) => self.mend(context, answer, popped),
        }
    }

    /// Restores what was current where something else was popped.
    pub(super) fn mend(
        &mut self,
        context: &ContextInner,
        answer: Answer,
        popped: CUcontext,
    ) -> Result<()> {
        let driver = context.driver();
        let mended = match answer {
            // Foreign code popped all there was.
            Ok(CUresult::CUDA_ERROR_INVALID_CONTEXT) => self.change.repair(driver, None),
            answer => driver
                .check(name::cuCtxPopCurrent_v2, answer)
                .and_then(|()| self.change.repair(driver, Some(popped))),
        };
        self.seat.leave(context);
        mended
    }
}

impl Refusal {
    #[cold]
    pub(super) fn into_error(self, driver: &Driver) -> Error {
        let error = match self {
            Self::Poisoned => driver.check_fault(),
            Self::Call(call, answer) => driver.check(call, answer),
            Self::Seat(error) => return *error,
        };
        // There is one, or there would be no refusal.
        error.err().unwrap_or(Error::GuardActive)
    }
}

impl Change {
    /// Foreign code changed the stack: what was popped, if anything, is not ours. Takes off what it pushed
    /// above ours, or puts back what it popped, until what we saw is current.
    fn repair(self, driver: &Driver, popped: Option<CUcontext>) -> Result<()> {
        /// Deeper stacks than this are nobody's intention.
        const DEEPEST: usize = 64;
        if popped.is_some() && current(driver)? == self.previous {
            // It replaced ours (`cuCtxSetCurrent`), and the pop took the replacement.
            return Err(Error::ForeignContext);
        }
        let mut above = Vec::from_iter(popped);
        while above.len() < DEEPEST && !current(driver)?.is_null() {
            let popped = pop(driver)?;
            if popped == self.current {
                // Ours was below what it pushed; what we saw is on top now.
                return Err(Error::ForeignContext);
            }
            above.push(popped);
        }
        // Ours is gone: it was popped by foreign code. Put back what we took off in looking for it.
        while let Some(context) = above.pop() {
            // SAFETY: this was on the stack a moment ago, so it is as live as it was then.
            unsafe { driver.cuCtxPushCurrent_v2(context) }?;
        }
        if current(driver)? != self.previous {
            // SAFETY: this was current when the guard began; null is allowed.
            unsafe { driver.cuCtxSetCurrent(self.previous) }?;
        }
        Err(Error::ForeignContext)
    }
}

impl Taken {
    /// A seat for this thread, and its context.
    #[inline]
    pub(super) fn take(
        context: &ContextInner,
    ) -> std::result::Result<(Self, CUcontext), Box<Error>> {
        let Some(partition) = &context.partition else {
            // The primary context is not ours to destroy, so nobody has to know who has it.
            let primary = context.device.raw_primary_context();
            return Ok((Self(None), primary.map_err(Box::new)?));
        };
        let thread = thread();
        if partition.shared {
            partition.seats.main.take_shared();
        } else if !partition.seats.main.take(thread) {
            let seat = partition.sibling(&context.device, thread);
            let seat = seat.map_err(Box::new)?;
            let sibling = seat.context.context;
            return Ok((Self(Some(seat)), sibling));
        }
        Ok((Self(None), partition.context()))
    }

    #[inline]
    pub(super) fn leave(&self, context: &ContextInner) {
        if let Self(Some(sibling)) = self {
            sibling.leave();
        } else if let Some(partition) = &context.partition {
            if partition.shared {
                partition.seats.main.leave_shared();
            } else {
                partition.seats.main.leave_biased();
            }
        }
    }
}

fn current(driver: &Driver) -> Result<CUcontext> {
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the one handle that is written.
    unsafe { driver.cuCtxGetCurrent(&mut context) }?;
    Ok(context)
}

fn pop(driver: &Driver) -> Result<CUcontext> {
    let mut popped = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the one handle that is written.
    unsafe { driver.cuCtxPopCurrent_v2(&mut popped) }?;
    Ok(popped)
}

/// A number that no other live thread has; never 0.
#[inline]
fn thread() -> usize {
    DEPTH.with(|depth| std::ptr::from_ref(depth) as usize)
}

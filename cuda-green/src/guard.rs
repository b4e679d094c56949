//! Guards over the calling thread's current context: they restore what was, on every path.
//!
//! Each guard pushes its context onto the driver's own stack for this thread and pops it when dropped.
//! Guards dropped out of order wait for those above them, so the stack never holds a gap. Foreign code
//! that left another context current is noticed by what the pop returns.

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    ops::Deref,
    sync::Arc,
};

use cuda_green_sys::CUcontext;

use crate::{
    CudaDevice, Driver, Error, GreenContext, Result,
    context::{ContextInner, Seat},
};

thread_local! {
    /// How many guards of this thread have not been unwound. Its address names the thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// How many of them are in `ORPHANS`: known without touching those.
    static ORPHANED: Cell<u32> = const { Cell::new(0) };
    /// Guards that were dropped before those above them.
    static ORPHANS: RefCell<Vec<Orphan>> = const { RefCell::new(Vec::new()) };
    /// What `set_current` made current on this thread.
    static BASE: RefCell<Option<Base>> = const { RefCell::new(None) };
}

/// Keeps a context current on this thread until it is dropped.
///
/// Dropping it makes current again what was current before, also in a panic, in any order with other
/// guards, and when foreign code left something else current (which is logged as a warning, and is an
/// error of [`ContextGuard::close`]). It cannot be sent to another thread. Forgetting it
/// (`mem::forget`) leaves the context current and never destroyed.
///
/// ```
/// # use cuda_green::{ContextId, Driver, SmPartitionManager};
/// # fn main() -> cuda_green::Result<()> {
/// # let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let manager = SmPartitionManager::on(&device)?;
/// manager.init_quad_partition()?;
/// {
///     let _embedding = manager.activate(ContextId::Embedding)?;
///     // what works in the current context runs in the Embedding partition here
/// }
/// // and what was current before is current again
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail
/// fn must_be_send<T: Send>(_: T) {}
/// fn check(guard: cuda_green::ContextGuard<'_>) {
///     must_be_send(guard);
/// }
/// ```
#[must_use = "the context stops being current when the guard is dropped"]
pub struct ContextGuard<'a> {
    /// Which guard of its thread it is, from 1; 0 once it has ended.
    depth: u32,
    seat: Taken,
    change: Change,
    context: Hold<'a>,
    _not_send: PhantomData<*mut ()>,
}

/// A guard that was dropped before one above it, with all that it still needs.
struct Orphan {
    depth: u32,
    seat: Taken,
    change: Change,
    context: Arc<ContextInner>,
}

/// What a guard changed on the driver's stack for this thread.
#[derive(Clone, Copy)]
struct Change {
    previous: CUcontext,
    current: CUcontext,
}

/// What keeps a context alive while it is current.
enum Hold<'a> {
    Borrowed(&'a Arc<ContextInner>),
    Owned(Arc<ContextInner>),
}

/// Which of a context's seats the thread has.
enum Taken {
    /// None is needed: the primary context is not ours to destroy.
    Primary,
    /// From CUDA 13.5 on, any number of threads may have the same.
    Shared,
    Main,
    Sibling(Arc<Seat>),
}

/// What `set_current` made current, and what keeps it alive until the thread changes or ends.
struct Base {
    seat: Taken,
    context: Arc<ContextInner>,
}

impl Deref for Hold<'_> {
    type Target = Arc<ContextInner>;

    fn deref(&self) -> &Arc<ContextInner> {
        match self {
            Self::Borrowed(context) => context,
            Self::Owned(context) => context,
        }
    }
}

impl<'a> ContextGuard<'a> {
    #[inline]
    pub(crate) fn borrowed(context: &'a Arc<ContextInner>) -> Result<Self> {
        Self::enter(Hold::Borrowed(context))
    }

    pub(crate) fn owned(context: GreenContext) -> Result<Self> {
        Self::enter(Hold::Owned(context.inner))
    }

    #[inline]
    fn enter(context: Hold<'a>) -> Result<Self> {
        let driver = context.driver();
        driver.healthy()?;
        let previous = current(driver)?;
        let (seat, current) = Taken::take(&context)?;
        // SAFETY: the context is live: the seat is ours, and `context` keeps it.
        let result = unsafe { driver.api().cuCtxPushCurrent_v2(current) };
        if let Err(error) = driver.check("cuCtxPushCurrent", result) {
            seat.leave(&context);
            return Err(error);
        }
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        let change = Change { previous, current };
        Ok(Self {
            depth,
            seat,
            change,
            context,
            _not_send: PhantomData,
        })
    }

    /// The raw context that this guard made current. With several threads in one context it may be that
    /// of a sibling: another green context over the same SMs.
    pub fn raw_context(&self) -> CUcontext {
        self.change.current
    }

    /// Drops the guard and says whether all was as it should be.
    ///
    /// # Errors
    /// [`Error::ForeignContext`] where foreign code had left another context current; what was current
    /// before the guard is current again all the same. [`Error::Driver`].
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    /// Restores what was current, or waits for the guards above it.
    #[inline]
    fn end(&mut self) -> Result<()> {
        let depth = std::mem::take(&mut self.depth);
        if DEPTH.get() != depth {
            self.wait_for_those_above(depth);
            return Ok(());
        }
        DEPTH.set(depth - 1);
        let restored = self.change.undo(self.context.driver());
        self.seat.leave(&self.context);
        if ORPHANED.get() > 0 {
            return restored.and(unwind_orphans());
        }
        restored
    }

    #[cold]
    fn wait_for_those_above(&mut self, depth: u32) {
        let orphan = Orphan {
            depth,
            seat: std::mem::replace(&mut self.seat, Taken::Primary),
            change: self.change,
            context: Arc::clone(&self.context),
        };
        // At the end of a thread its locals may be gone; then its context stack ends with it.
        if ORPHANS
            .try_with(|orphans| orphans.borrow_mut().push(orphan))
            .is_ok()
        {
            ORPHANED.set(ORPHANED.get() + 1);
        }
    }
}

impl Drop for ContextGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.depth > 0
            && let Err(error) = self.end()
        {
            log::warn!("dropping a context guard: {error}");
        }
    }
}

impl Change {
    #[inline]
    fn undo(self, driver: &Driver) -> Result<()> {
        let popped = pop(driver)?;
        if popped == self.current {
            Ok(())
        } else {
            self.repair(driver, popped)
        }
    }

    /// Foreign code changed the stack: what was popped is not ours. Takes off what it pushed above ours,
    /// or puts back what it popped, until what we saw is current.
    #[cold]
    fn repair(self, driver: &Driver, popped: CUcontext) -> Result<()> {
        /// Deeper stacks than this are nobody's intention.
        const DEEPEST: usize = 64;
        if current(driver)? == self.previous {
            // It replaced ours (`cuCtxSetCurrent`), and the pop took the replacement.
            return Err(Error::ForeignContext);
        }
        let mut above = vec![popped];
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
            let result = unsafe { driver.api().cuCtxPushCurrent_v2(context) };
            driver.check("cuCtxPushCurrent", result)?;
        }
        if current(driver)? != self.previous {
            // SAFETY: this was current when the guard began; null is allowed.
            let result = unsafe { driver.api().cuCtxSetCurrent(self.previous) };
            driver.check("cuCtxSetCurrent", result)?;
        }
        Err(Error::ForeignContext)
    }
}

/// Unwinds the guards that were dropped early and have none above them any more.
#[cold]
fn unwind_orphans() -> Result<()> {
    let next = || {
        ORPHANS
            .try_with(|orphans| {
                let mut orphans = orphans.borrow_mut();
                let depth = DEPTH.get();
                let index = orphans.iter().position(|orphan| orphan.depth == depth)?;
                Some(orphans.swap_remove(index))
            })
            .ok()
            .flatten()
    };
    let mut result = Ok(());
    while let Some(Orphan {
        depth,
        seat,
        change,
        context,
    }) = next()
    {
        ORPHANED.set(ORPHANED.get() - 1);
        DEPTH.set(depth - 1);
        result = result.and(change.undo(context.driver()));
        seat.leave(&context);
    }
    result
}

impl Taken {
    /// A seat for this thread, and its context.
    #[inline]
    fn take(context: &ContextInner) -> Result<(Self, CUcontext)> {
        let Some(partition) = &context.partition else {
            return Ok((Self::Primary, context.context()?));
        };
        if partition.shared {
            partition.seats.main.take_shared();
            return Ok((Self::Shared, partition.context()));
        }
        let thread = thread();
        if partition.seats.main.take(thread) {
            return Ok((Self::Main, partition.context()));
        }
        let seat = partition.sibling(&context.device, thread)?;
        let sibling = seat.context.context;
        Ok((Self::Sibling(seat), sibling))
    }

    #[inline]
    fn leave(&self, context: &ContextInner) {
        match (self, &context.partition) {
            (Self::Main, Some(partition)) => {
                partition.seats.main.leave_biased();
            }
            (Self::Shared, Some(partition)) => partition.seats.main.leave_shared(),
            (Self::Sibling(seat), _) => seat.leave(),
            (Self::Primary | Self::Main | Self::Shared, _) => {}
        }
    }
}

/// Makes a context current on this thread without a guard; it stays so, and alive, until the thread sets
/// another, calls [`unset_current`], or ends.
pub(crate) fn set_current(context: GreenContext) -> Result<()> {
    if DEPTH.get() > 0 {
        return Err(Error::GuardActive);
    }
    let context = context.inner;
    let (seat, raw) = Taken::take(&context)?;
    if let Err(error) = set(&context.device, raw) {
        seat.leave(&context);
        return Err(error);
    }
    let previous = BASE.with_borrow_mut(|base| base.replace(Base { seat, context }));
    drop(previous); // after the borrow, since destroying a context may use this thread's context stack
    Ok(())
}

/// Leaves this thread without a current context, if `set_current` had given it one.
pub(crate) fn unset_current(device: &CudaDevice) -> Result<()> {
    if DEPTH.get() > 0 {
        return Err(Error::GuardActive);
    }
    let base = BASE.with_borrow_mut(|base| base.take_if(|base| base.context.device.is(device)));
    if base.is_some() {
        set(device, std::ptr::null_mut())?;
    }
    Ok(())
}

impl Drop for Base {
    fn drop(&mut self) {
        self.seat.leave(&self.context);
    }
}

fn set(device: &CudaDevice, context: CUcontext) -> Result<()> {
    // SAFETY: the caller holds the object whose context this is, or it is null.
    let result = unsafe { device.driver().api().cuCtxSetCurrent(context) };
    device.driver().check("cuCtxSetCurrent", result)
}

#[inline]
fn current(driver: &Driver) -> Result<CUcontext> {
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the one handle that is written.
    let result = unsafe { driver.api().cuCtxGetCurrent(&mut context) };
    driver.check("cuCtxGetCurrent", result)?;
    Ok(context)
}

#[inline]
fn pop(driver: &Driver) -> Result<CUcontext> {
    let mut popped = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the one handle that is written.
    let result = unsafe { driver.api().cuCtxPopCurrent_v2(&mut popped) };
    driver.check("cuCtxPopCurrent", result)?;
    Ok(popped)
}

/// A number that no other live thread has; never 0.
#[inline]
fn thread() -> usize {
    DEPTH.with(|depth| std::ptr::from_ref(depth) as usize)
}

impl std::fmt::Debug for ContextGuard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextGuard")
            .field("context", &self.raw_context())
            .finish_non_exhaustive()
    }
}

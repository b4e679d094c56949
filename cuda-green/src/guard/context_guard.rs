//! The guard that makes a context current, and what happens to guards that are dropped out of order.
//!
//! Each guard pushes its context onto the driver's context stack of this thread and pops it when dropped.
//! A guard that is dropped out of order ends when the guards above it have ended, so the stack never has a gap.
//! Foreign code that left another context current is detected by the context that the pop returns.

use std::{cell::RefCell, marker::PhantomData, ops::Deref, sync::Arc};

use cuda_green_sys::CUcontext;

use super::entered::{DEPTH, EndFailure, Entered, Held, PENDING_COUNT};

use crate::{
    error::{Error, Result},
    partition::{ContextInner, GreenContext},
};

thread_local! {
    /// Guards that were dropped before those above them.
    static PENDING_ENDS: RefCell<Vec<PendingEnd>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a context current to this thread until it is dropped.
///
/// Dropping it restores the context that was current before: also during a panic, in any order with other
/// guards, and if foreign code left another context current (which is logged as a warning, and is an
/// error of [`ContextGuard::close`]). A guard cannot be sent to another thread. Forgetting it
/// (`mem::forget`) leaves the context current, and the context is never destroyed.
///
/// ```
/// # use cuda_green::{ContextId, Driver, SmPartitionManager};
/// # fn main() -> cuda_green::Result<()> {
/// # let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let manager = SmPartitionManager::on(&device)?;
/// manager.init_quad_partition()?;
/// {
///     let _embedding = manager.activate(ContextId::Embedding)?;
///     // code that uses the current context runs in the Embedding partition here
/// }
/// // the context that was current before is current again
/// # Ok(())
/// # }
/// ```
///
/// # Across an `await`
///
/// Do not hold a guard across an `await`. Use [`GreenContext::with_current`], which takes a closure, or streams, which
/// need no current context. If tasks take turns on one thread (`block_on` with `join!`, a `LocalSet`), each would run
/// in the context that another task made current. [`close`](Self::close) reports a guard that ends below another one;
/// a task that ran meanwhile and ended its own guard in order cannot be detected. These lines in `clippy.toml` find
/// guards held across an `await`:
///
/// ```toml
/// await-holding-invalid-types = ["cuda_green::ContextGuard"]
/// ```
///
/// A guard belongs to its thread, so a future that is `Send` cannot hold one across an `await`: the rest of the future
/// could run on another thread, where another context is current.
///
/// ```compile_fail
/// # use cuda_green::{ContextId, SmPartitionManager};
/// # fn spawn(_: impl Future + Send) {}
/// # async fn something_else() {}
/// # fn check(manager: &SmPartitionManager) {
/// spawn(async {
///     let guard = manager.activate(ContextId::Embedding);
///     something_else().await;
///     drop(guard);
/// });
/// # }
/// ```
///
/// A guard that ends before the `await` does no harm:
///
/// ```
/// # use cuda_green::{ContextId, SmPartitionManager};
/// # fn spawn(_: impl Future + Send) {}
/// # async fn something_else() {}
/// # fn check(manager: &SmPartitionManager) {
/// spawn(async {
///     let guard = manager.activate(ContextId::Embedding);
///     drop(guard);
///     something_else().await;
/// });
/// # }
/// ```
///
/// # Cost
///
/// A guard makes three driver calls: a query of the current context, a push and a pop. On an H200 a push and a pop take
/// 32 ns (`evidence/activate.json`), and the query 12 ns more. The query is needed: foreign code that sets another
/// context inside the guard, and foreign code that pops the guard's context and leaves the one below, can leave the
/// same stack behind, so only the context seen at the start shows what to restore.
#[must_use = "the context stops being current when the guard is dropped"]
pub struct ContextGuard<'a> {
    entered: Entered,
    context: ContextRef<'a>,
    _not_send: PhantomData<*mut ()>,
}

/// A guard that was dropped before one above it, with everything that its end still needs.
struct PendingEnd {
    entered: Entered,
    context: Arc<ContextInner>,
}

/// A reference that keeps a context alive while it is current.
enum ContextRef<'a> {
    Borrowed(&'a Arc<ContextInner>),
    Owned(Arc<ContextInner>),
}

impl Deref for ContextRef<'_> {
    type Target = Arc<ContextInner>;

    fn deref(&self) -> &Arc<ContextInner> {
        match self {
            Self::Borrowed(context) => context,
            Self::Owned(context) => context,
        }
    }
}

impl<'a> ContextGuard<'a> {
    /// Makes a context current, borrowing its handle.
    #[inline]
    pub(crate) fn borrowed(context: &'a Arc<ContextInner>) -> Result<Self> {
        match Entered::begin(context) {
            Ok(entered) => Ok(Self::new(entered, ContextRef::Borrowed(context))),
            Err(refusal) => Err(refusal.into_error(context.driver())),
        }
    }

    /// Makes a context current, owning a handle.
    pub(crate) fn owned(context: GreenContext) -> Result<Self> {
        match Entered::begin(&context.inner) {
            Ok(entered) => Ok(Self::new(entered, ContextRef::Owned(context.inner))),
            Err(refusal) => Err(refusal.into_error(context.inner.driver())),
        }
    }

    #[inline]
    fn new(entered: Entered, context: ContextRef<'a>) -> Self {
        Self {
            entered,
            context,
            _not_send: PhantomData,
        }
    }

    /// Returns the raw context that this guard made current. If several threads use one context, it may be that
    /// of a sibling: another green context over the same SMs.
    pub fn raw_context(&self) -> CUcontext {
        self.entered.change.current
    }

    /// Ends the guard and reports whether the thread's current contexts were as expected.
    ///
    /// # Errors
    /// [`Error::ForeignContext`] if foreign code had left another context current; the context that was current before
    /// the guard is restored even then. [`Error::GuardNotOnTop`] if a guard that this thread entered later still exists
    /// or was forgotten: the later guard's context stays current until that guard ends, which ends this one too.
    /// [`Error::Driver`].
    pub fn close(mut self) -> Result<()> {
        match self.entered.end(&self.context) {
            Ok(()) => Ok(()),
            Err(failure) => self.recover(failure),
        }
    }

    /// Ends the guard after the usual end failed.
    #[cold]
    fn recover(&mut self, failure: EndFailure) -> Result<()> {
        match failure {
            EndFailure::UnexpectedPop(answer, popped) => {
                self.entered.restore(&self.context, answer, popped)
            }
            EndFailure::OutOfOrder if DEPTH.get() == self.entered.depth => {
                let ended = self.entered.pop_and_restore(&self.context);
                ended.and(end_pending())
            }
            EndFailure::OutOfOrder => {
                self.defer_end();
                Err(Error::GuardNotOnTop)
            }
        }
    }

    /// Leaves the end of this guard to the guards above it.
    fn defer_end(&mut self) {
        let ended = Entered {
            depth: 0,
            held: Held(None),
            change: self.entered.change,
        };
        let pending = PendingEnd {
            entered: std::mem::replace(&mut self.entered, ended),
            context: Arc::clone(&self.context),
        };
        // At the end of a thread its thread-locals may be gone; its context stack then ends with the thread.
        if PENDING_ENDS
            .try_with(|ends| ends.borrow_mut().push(pending))
            .is_ok()
        {
            PENDING_COUNT.set(PENDING_COUNT.get() + 1);
        }
    }
}

impl Drop for ContextGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.entered.depth > 0
            && let Err(failure) = self.entered.end(&self.context)
        {
            self.recover_in_drop(failure);
        }
    }
}

impl ContextGuard<'_> {
    #[cold]
    fn recover_in_drop(&mut self, failure: EndFailure) {
        match self.recover(failure) {
            // Guards may be dropped in any order; `close` reports a wrong one.
            Ok(()) | Err(Error::GuardNotOnTop) => {}
            Err(error) => log::warn!("dropping a context guard: {error}"),
        }
    }
}

/// Ends the guards that were dropped early and now have no guard above them.
fn end_pending() -> Result<()> {
    let next = || {
        let pending = PENDING_ENDS.try_with(|ends| {
            let mut ends = ends.borrow_mut();
            let depth = DEPTH.get();
            let is_next = |end: &PendingEnd| end.entered.depth == depth;
            let index = ends.iter().position(is_next)?;
            Some(ends.swap_remove(index))
        });
        pending.ok().flatten()
    };
    let mut result = Ok(());
    while let Some(PendingEnd {
        mut entered,
        context,
    }) = next()
    {
        PENDING_COUNT.set(PENDING_COUNT.get() - 1);
        result = result.and(entered.pop_and_restore(&context));
    }
    result
}

impl std::fmt::Debug for ContextGuard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextGuard")
            .field("context", &self.raw_context())
            .finish_non_exhaustive()
    }
}

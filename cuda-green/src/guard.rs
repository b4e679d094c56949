//! Guards over the calling thread's current context: they restore what was, on every path.
//!
//! Each guard pushes its context onto the driver's own stack for this thread and pops it when dropped.
//! Guards dropped out of order wait for those above them, so the stack never holds a gap. Foreign code
//! that left another context current is noticed by what the pop returns.

mod base;
mod entered;

use std::{cell::RefCell, marker::PhantomData, ops::Deref, sync::Arc};

use cuda_green_sys::CUcontext;

pub(crate) use base::{set_current, unset_current};
use entered::{DEPTH, Entered, ORPHANED, Taken, Trouble};

use crate::{
    error::{Error, Result},
    partition::{ContextInner, GreenContext},
};

thread_local! {
    /// Guards that were dropped before those above them.
    static ORPHANS: RefCell<Vec<Orphan>> = const { RefCell::new(Vec::new()) };
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
/// # Across an `await`
///
/// Do not hold one there: use [`GreenContext::with_current`], which takes a closure, or streams, for which nothing
/// need be current. Where tasks take turns on one thread (`block_on` with `join!`, a `LocalSet`), each would run in
/// what another made current. [`close`](Self::close) tells where a guard ends below another one; that a task ran
/// meanwhile and ended its own guard in order, nothing can tell. In `clippy.toml`, this finds it:
///
/// ```toml
/// await-holding-invalid-types = ["cuda_green::ContextGuard"]
/// ```
///
/// It stays on its thread, so a future that is to be `Send` cannot hold it across an `await`: the rest
/// could run on another thread, where something else is current.
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
/// Ended before the `await`, it does no harm:
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
/// Three calls of the driver: one to see what is current, a push and a pop. On an H200 a push and a pop take
/// 32 ns (`evidence/activate.json`), and the question 12 ns more. It cannot be saved: code that sets another
/// context inside the guard, and code that pops the guard's and leaves what was below, may leave the very
/// same stack behind, and only what was seen at the beginning tells what is to be restored.
#[must_use = "the context stops being current when the guard is dropped"]
pub struct ContextGuard<'a> {
    entered: Entered,
    context: Hold<'a>,
    _not_send: PhantomData<*mut ()>,
}

/// A guard that was dropped before one above it, with all that it still needs.
struct Orphan {
    entered: Entered,
    context: Arc<ContextInner>,
}

/// What keeps a context alive while it is current.
enum Hold<'a> {
    Borrowed(&'a Arc<ContextInner>),
    Owned(Arc<ContextInner>),
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
        match Entered::begin(context) {
            Ok(entered) => Ok(Self::new(entered, Hold::Borrowed(context))),
            Err(refusal) => Err(refusal.into_error(context.driver())),
        }
    }

    pub(crate) fn owned(context: GreenContext) -> Result<Self> {
        match Entered::begin(&context.inner) {
            Ok(entered) => Ok(Self::new(entered, Hold::Owned(context.inner))),
            Err(refusal) => Err(refusal.into_error(context.inner.driver())),
        }
    }

    #[inline]
    fn new(entered: Entered, context: Hold<'a>) -> Self {
        Self {
            entered,
            context,
            _not_send: PhantomData,
        }
    }

    /// The raw context that this guard made current. With several threads in one context it may be that
    /// of a sibling: another green context over the same SMs.
    pub fn raw_context(&self) -> CUcontext {
        self.entered.change.current
    }

    /// Drops the guard and says whether all was as it should be.
    ///
    /// # Errors
    /// [`Error::ForeignContext`] where foreign code had left another context current; what was current before the
    /// guard is current again all the same. [`Error::GuardNotOnTop`] where a guard that this thread entered later
    /// is still there, or was forgotten: the context of that one is current, and stays so until it ends, which
    /// ends this one. [`Error::Driver`].
    pub fn close(mut self) -> Result<()> {
        match self.entered.end(&self.context) {
            Ok(()) => Ok(()),
            Err(trouble) => self.end_in(trouble),
        }
    }

    #[cold]
    fn end_in(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Popped(answer, popped) => self.entered.mend(&self.context, answer, popped),
            Trouble::OutOfOrder if DEPTH.get() == self.entered.depth => {
                let ended = self.entered.pop_and_mend(&self.context);
                ended.and(unwind_orphans())
            }
            Trouble::OutOfOrder => {
                self.wait_for_those_above();
                Err(Error::GuardNotOnTop)
            }
        }
    }

    fn wait_for_those_above(&mut self) {
        let nothing = Entered {
            depth: 0,
            seat: Taken(None),
            change: self.entered.change,
        };
        let orphan = Orphan {
            entered: std::mem::replace(&mut self.entered, nothing),
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
        if self.entered.depth > 0
            && let Err(trouble) = self.entered.end(&self.context)
        {
            self.drop_in(trouble);
        }
    }
}

impl ContextGuard<'_> {
    #[cold]
    fn drop_in(&mut self, trouble: Trouble) {
        match self.end_in(trouble) {
            // Guards may be dropped in any order; where that was not meant, `close` tells.
            Ok(()) | Err(Error::GuardNotOnTop) => {}
            Err(error) => log::warn!("dropping a context guard: {error}"),
        }
    }
}

/// Unwinds the guards that were dropped early and have none above them any more.
fn unwind_orphans() -> Result<()> {
    let next = || {
        let orphan = ORPHANS.try_with(|orphans| {
            let mut orphans = orphans.borrow_mut();
            let depth = DEPTH.get();
            let is_next = |orphan: &Orphan| orphan.entered.depth == depth;
            let index = orphans.iter().position(is_next)?;
            Some(orphans.swap_remove(index))
        });
        orphan.ok().flatten()
    };
    let mut result = Ok(());
    while let Some(Orphan {
        mut entered,
        context,
    }) = next()
    {
        ORPHANED.set(ORPHANED.get() - 1);
        result = result.and(entered.pop_and_mend(&context));
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

//! Contexts that are current to a thread without a guard.

use std::{cell::RefCell, sync::Arc};

use cuda_green_sys::CUcontext;

use super::entered::{DEPTH, Held};
use crate::{
    device::CudaDevice,
    error::{Error, Result},
    partition::{ContextInner, GreenContext},
};

thread_local! {
    /// The context that `set_current` made current to this thread.
    static BASE: RefCell<Option<Base>> = const { RefCell::new(None) };
}

/// A context that `set_current` made current, kept alive until the thread sets another or ends.
struct Base {
    held: Held,
    context: Arc<ContextInner>,
}

/// Makes a context current to this thread without a guard. It stays current and alive until the thread sets
/// another, calls [`unset_current`], or ends.
pub(crate) fn set_current(context: GreenContext) -> Result<()> {
    if DEPTH.get() > 0 {
        return Err(Error::GuardActive);
    }
    if BASE.try_with(|_| ()).is_err() {
        return Err(Error::InvalidArgument {
            name: "thread",
            value: "ending".to_owned(),
            reason: "nothing would keep the context alive; use a guard",
        });
    }
    let context = context.inner;
    let (held, raw) = Held::acquire(&context).map_err(|error| *error)?;
    if let Err(error) = set(&context.device, raw) {
        held.release(&context);
        return Err(error);
    }
    let previous = BASE.with_borrow_mut(|base| base.replace(Base { held, context }));
    drop(previous); // after the borrow, because destroying a context may use this thread's context stack
    Ok(())
}

/// Leaves this thread without a current context, if `set_current` had set one.
pub(crate) fn unset_current(device: &CudaDevice) -> Result<()> {
    if DEPTH.get() > 0 {
        return Err(Error::GuardActive);
    }
    // At the end of a thread its thread-locals may be gone, and with them the handle of the current context.
    let base = BASE.try_with(|base| {
        let mut base = base.borrow_mut();
        base.take_if(|base| base.context.device == *device)
    });
    if let Ok(Some(_)) = base {
        set(device, std::ptr::null_mut())?;
    }
    Ok(())
}

impl Drop for Base {
    fn drop(&mut self) {
        self.held.release(&self.context);
    }
}

/// Sets the thread's current context.
fn set(device: &CudaDevice, context: CUcontext) -> Result<()> {
    // SAFETY: the caller holds the object whose context this is, or it is null.
    unsafe { device.driver().cuCtxSetCurrent(context) }
}

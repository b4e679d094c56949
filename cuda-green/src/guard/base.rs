//! What a thread has current without a guard.

use std::{cell::RefCell, sync::Arc};

use cuda_green_sys::CUcontext;

use super::entered::{DEPTH, Taken};
use crate::{
    device::CudaDevice,
    error::{Error, Result},
    partition::{ContextInner, GreenContext},
};

thread_local! {
    /// What `set_current` made current on this thread.
    static BASE: RefCell<Option<Base>> = const { RefCell::new(None) };
}

/// What `set_current` made current, and what keeps it alive until the thread changes or ends.
struct Base {
    seat: Taken,
    context: Arc<ContextInner>,
}

/// Makes a context current on this thread without a guard; it stays so, and alive, until the thread sets
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
    let (seat, raw) = Taken::take(&context).map_err(|error| *error)?;
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
    // At the end of a thread its locals may be gone, and with them the hold on what was current.
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
        self.seat.leave(&self.context);
    }
}

fn set(device: &CudaDevice, context: CUcontext) -> Result<()> {
    // SAFETY: the caller holds the object whose context this is, or it is null.
    unsafe { device.driver().cuCtxSetCurrent(context) }
}

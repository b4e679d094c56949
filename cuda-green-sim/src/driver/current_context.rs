//! Each thread's current context, and the context that a handle stands for.

use std::{cell::RefCell, collections::HashMap};

use cuda_green_sys::CUresult;

use super::{
    Driver, Kind, State,
    green_contexts::Green,
    state::{Context, Device},
};

thread_local! {
    /// Each thread's stack of current contexts, by the driver's number.
    static STACKS: RefCell<HashMap<u64, Vec<u64>>> = RefCell::default();
}

impl Driver {
    /// Returns the top of the calling thread's stack, whether it is alive or not; 0 if there is none.
    pub(super) fn current_handle(&self) -> u64 {
        // At the end of a thread its stacks may already be gone.
        STACKS
            .try_with(|stacks| {
                let stacks = stacks.borrow();
                stacks.get(&self.number)?.last().copied()
            })
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    /// Works on the calling thread's stack of contexts.
    pub(super) fn with_stack<T>(&self, work: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        // At the end of a thread its stacks may already be gone; a context pushed then is lost.
        let mut stack = STACKS
            .try_with(|stacks| stacks.borrow_mut().remove(&self.number))
            .ok()
            .flatten()
            .unwrap_or_default();
        let answer = work(&mut stack);
        if !stack.is_empty() {
            let _ = STACKS.try_with(|stacks| stacks.borrow_mut().insert(self.number, stack));
        }
        answer
    }

    /// Returns the calling thread's current context, which must be alive.
    pub(super) fn current(&self, state: &State) -> Result<Context, CUresult> {
        self.context(state, self.current_handle())
    }

    /// Returns the context that a handle stands for. A green context's handle stands for a context once
    /// `cuCtxFromGreenCtx` was called for it, which returns the same handle (measured on an H200, driver 580).
    pub(super) fn context(&self, state: &State, handle: u64) -> Result<Context, CUresult> {
        if let Some(index) = state.devices.iter().position(|d| d.primary == handle) {
            self.present(index)?;
            if state.primary_is_active(index) {
                return Ok(Context::Primary(index));
            }
            if state.devices[index].was_active {
                return Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
            }
        } else if state
            .greens
            .get(&handle)
            .is_some_and(|green| green.is_context)
        {
            self.green(state, handle)?;
            return Ok(Context::Green(handle));
        } else if state.dead_contexts.contains_key(&handle) {
            return Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        }
        Err(CUresult::CUDA_ERROR_INVALID_CONTEXT)
    }

    /// Returns the device of a context, alive or not.
    pub(super) fn device_of_handle(&self, state: &State, handle: u64) -> Result<usize, CUresult> {
        let device = match self.context(state, handle) {
            Ok(context) => state.device_of(context),
            Err(code) => state
                .dead_contexts
                .get(&handle)
                .copied()
                .or_else(|| {
                    let known = |d: &Device| d.primary == handle && d.was_active;
                    state.devices.iter().position(known)
                })
                .ok_or(code),
        }?;
        self.present(device)?;
        Ok(device)
    }

    /// Returns a green context by its own handle.
    pub(super) fn green<'s>(&self, state: &'s State, handle: u64) -> Result<&'s Green, CUresult> {
        match state.greens.get(&handle) {
            Some(green) => self.present(green.device).map(|()| green),
            None if self.was_mine(state, handle, Kind::Green) => {
                Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED)
            }
            None => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
        }
    }
}

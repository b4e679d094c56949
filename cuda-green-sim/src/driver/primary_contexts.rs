//! Primary contexts, and each thread's stack of current contexts.

use cuda_green_sys::{CUctx_st, CUevent_st, CUresult};

use super::{Context, Driver, as_pointer};
use crate::{
    c_args::{Answer, Raw},
    leaks::MadeAt,
};

impl Driver {
    pub(crate) fn cuDevicePrimaryCtxRetain(&self, pctx: Raw<*mut CUctx_st>, dev: i32) -> Answer {
        let mut state = self.enter_despite_fault()?;
        pctx.required()?;
        let device = &mut state.devices[self.device(dev)?];
        device.retains.push(MadeAt::now());
        device.active = true;
        device.was_active = true;
        pctx.set(as_pointer(device.primary))
    }

    /// Refuses one release more than retains: with one code while something else holds the context, and with another
    /// once it is gone (measured on an H200, driver 580).
    pub(crate) fn cuDevicePrimaryCtxRelease_v2(&self, dev: i32) -> Answer {
        let mut state = self.enter_despite_fault()?;
        let index = self.device(dev)?;
        let device = &mut state.devices[index];
        // Retains have no handles, so it is unknown which one this releases.
        if device.retains.pop().is_none() {
            return Err(if device.active {
                CUresult::CUDA_ERROR_NOT_PERMITTED
            } else {
                CUresult::CUDA_ERROR_INVALID_CONTEXT
            });
        }
        state.sweep_if_unused(self, index);
        Ok(())
    }

    pub(crate) fn cuDevicePrimaryCtxGetState(
        &self,
        dev: i32,
        flags: Raw<u32>,
        active: Raw<i32>,
    ) -> Answer {
        let state = self.enter_despite_fault()?;
        let index = self.device(dev)?;
        flags.required()?;
        active.set(state.primary_is_active(index).into())?;
        flags.set(0)
    }

    /// Returns the handle as it is, even that of a destroyed context (measured on an H200, driver 580).
    pub(crate) fn cuCtxGetCurrent(&self, pctx: Raw<*mut CUctx_st>) -> Answer {
        self.ready_despite_fault()?;
        pctx.set(as_pointer(self.current_handle()))
    }

    /// Accepts a destroyed context (measured on an H200, driver 580).
    pub(crate) fn cuCtxSetCurrent(&self, ctx: Raw<CUctx_st>) -> Answer {
        let state = self.enter_despite_fault()?;
        let handle = ctx.handle();
        if handle != 0 {
            self.device_of_handle(&state, handle)?;
        }
        self.with_stack(|stack| {
            stack.pop();
            if handle != 0 {
                stack.push(handle);
            }
        });
        Ok(())
    }

    /// Accepts a destroyed context (measured on an H200, driver 580).
    pub(crate) fn cuCtxPushCurrent_v2(&self, ctx: Raw<CUctx_st>) -> Answer {
        let state = self.enter_despite_fault()?;
        ctx.required()?;
        self.device_of_handle(&state, ctx.handle())?;
        self.with_stack(|stack| stack.push(ctx.handle()));
        Ok(())
    }

    /// Pops a destroyed context too; otherwise a thread could never get rid of it.
    pub(crate) fn cuCtxPopCurrent_v2(&self, pctx: Raw<*mut CUctx_st>) -> Answer {
        self.ready_despite_fault()?;
        let popped = self
            .with_stack(Vec::pop)
            .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        pctx.set_if_wanted(as_pointer(popped));
        Ok(())
    }

    /// Returns the device even of a destroyed context (measured on an H200, driver 580).
    pub(crate) fn cuCtxGetDevice(&self, device: Raw<i32>) -> Answer {
        let state = self.enter_despite_fault()?;
        device.set(self.device_of_handle(&state, self.current_handle())? as i32)
    }

    /// In the primary context, waits for the work of green contexts too (13.5 header), but not for their captures:
    /// the call is refused only in the capturing green context (measured on an H200, driver 580).
    pub(crate) fn cuCtxSynchronize(&self) -> Answer {
        let mut state = self.enter()?;
        let context = self.current(&state)?;
        let device = state.device_of(context)?;
        let only = match context {
            Context::Primary(_) => None,
            Context::Green(handle) => Some(handle),
        };
        let key = state.context_key(context);
        state.none_captured(device, Some(key))?;
        state = self.wait_all(state, device, only)?;
        self.wait_for_late_copies(&mut state, device, only);
        self.memory().release_unused(device);
        Ok(())
    }

    pub(crate) fn cuCtxGetStreamPriorityRange(
        &self,
        least: Raw<i32>,
        greatest: Raw<i32>,
    ) -> Answer {
        let state = self.enter()?;
        let _: Context = self.current(&state)?;
        let (lowest, highest) = self.profile.device.stream_priorities;
        // Either output may be declined (11.4 header and later).
        least.set_if_wanted(lowest);
        greatest.set_if_wanted(highest);
        Ok(())
    }

    /// Returns the flags that the primary context has by default.
    pub(crate) fn cuCtxGetFlags(&self, flags: Raw<u32>) -> Answer {
        let state = self.enter()?;
        flags.required()?;
        let _: Context = self.current(&state)?;
        flags.set(0)
    }

    /// Accepts no context but a live one; null means the current one.
    pub(crate) fn cuCtxGetId(&self, context: Raw<CUctx_st>, id: Raw<u64>) -> Answer {
        let state = self.enter()?;
        id.required()?;
        let handle = if context.is_null() {
            self.current_handle()
        } else {
            context.handle()
        };
        let found = self.context(&state, handle)?;
        id.set(state.context_key(found) >> 8)
    }

    /// In the primary context, records all work of its green contexts too (13.5 header).
    pub(crate) fn cuCtxRecordEvent(
        &self,
        context: Raw<CUctx_st>,
        event: Raw<CUevent_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let found = self.context(&state, context.handle())?;
        let device = state.device_of(found)?;
        let key = match found {
            Context::Primary(_) => None,
            Context::Green(handle) => Some(handle),
        };
        self.record_context(&mut state, event.handle(), device, key)
    }

    pub(crate) fn cuCtxWaitEvent(&self, context: Raw<CUctx_st>, event: Raw<CUevent_st>) -> Answer {
        let mut state = self.enter()?;
        let found = self.context(&state, context.handle())?;
        let device = state.device_of(found)?;
        let mut contexts = vec![state.context_key(found)];
        if let Context::Primary(_) = found {
            let greens = state.greens.iter();
            contexts.extend(greens.filter(|(_, g)| g.device == device).map(|(h, _)| *h));
        }
        self.contexts_wait(&mut state, event.handle(), device, &contexts)
    }
}

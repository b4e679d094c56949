//! Green contexts.

use cuda_green_sys::{
    CUctx_st, CUdevResourceDesc_st, CUevent_st, CUgreenCtx_st, CUgreenCtxCreate_flags, CUresult,
    CUstream_flags_enum, CUstream_st,
};

use super::{
    Context, Driver, Kind, State, as_pointer, require, sm_resource::Origin, workqueues::Workqueue,
};
use crate::{
    c_args::{Answer, Raw},
    leaks::MadeAt,
    sms::SmSet,
};

pub(super) struct Green {
    pub(super) device: usize,
    /// Whether `cuCtxFromGreenCtx` was called for it; before that, its handle is not a context's.
    pub(super) is_context: bool,
    /// The id that `cuGreenCtxGetId` returns.
    id: u64,
    /// The id of the resource that the context reports as its own.
    pub(super) resource: u64,
    /// The SMs it runs on.
    pub(super) sms: SmSet,
    pub(super) workqueue: Workqueue,
    pub(super) made_at: MadeAt,
}

impl Driver {
    pub(crate) fn cuGreenCtxCreate(
        &self,
        green: Raw<*mut CUgreenCtx_st>,
        desc: Raw<CUdevResourceDesc_st>,
        dev: i32,
        flags: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        green.required()?;
        let device = self.device(dev)?;
        // Flags of 0 are refused before 13.3, which names them (measured on 13.0).
        let default_stream = CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM.0;
        require(flags == default_stream || (flags == 0 && self.speaks(13, 3)))?;
        let (mut resource, workqueue) = if desc.is_null() {
            // No descriptor is no error (measured on an H200, driver 580); that all SMs are meant is not
            // measured.
            (self.whole_device(device), None)
        } else {
            let descriptor = state
                .descriptors
                .get(&desc.handle())
                .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
            (descriptor.resource.clone(), descriptor.workqueue)
        };
        if resource.device != device {
            return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        self.memory().take_green_context(device)?;
        // Either creating or destroying one waits for other work on the device (measured on an H200, driver 580).
        // That it is creating is deduced: destroying one with work in flight returns at once.
        let waited = self.wait_all(state, device, None);
        state = waited.inspect_err(|_| self.memory().leave_green_context(device))?;
        self.wait_for_late_copies(&mut state, device, None);
        let sms = if self.injections.runs_everywhere() {
            self.whole_device(device).sms
        } else {
            resource.sms.clone()
        };
        let handle = state.new_handle(self.number, Kind::Green);
        // A context's own resource may be split again (measured on 13.0).
        resource.origin = Origin::Query;
        resource.root = Some(handle);
        let resource = self.keep(&mut state, resource);
        let workqueue = self.provide_workqueue(&mut state, device, workqueue);
        state.devices[device].was_active = true;
        state.devices[device].active = true;
        state.green_ids += 1;
        let id = state.green_ids;
        state.greens.insert(
            handle,
            Green {
                device,
                is_context: false,
                id,
                resource,
                sms,
                workqueue,
                made_at: MadeAt::now(),
            },
        );
        green.set(as_pointer(handle))
    }

    /// Succeeds whatever still uses the context (measured on an H200, driver 580). Where it is current it stays on
    /// the stack as a dangling handle, and its streams can no longer be used. Captures that contain them go on
    /// (measured there too), but a capture whose origin stream is gone can never end, so the calls that it forbids
    /// stay forbidden.
    pub(crate) fn cuGreenCtxDestroy(&self, green: Raw<CUgreenCtx_st>) -> Answer {
        let mut state = self.enter_despite_fault()?;
        let handle = green.handle();
        let (device, is_context) = {
            let green = self.green(&state, handle)?;
            (green.device, green.is_context)
        };
        state.greens.remove(&handle);
        if is_context {
            state.dead_contexts.insert(handle, device);
        }
        if self.speaks(13, 1) {
            // Its header says so; before, captures stay as they are (measured on an H200, driver 580).
            state.invalidate(|capture| capture.is_in(handle));
        } else {
            // Not even cuStreamDestroy works on them, so they end with the context.
            state.lose_streams(|stream| stream.green == Some(handle));
        }
        // Work in flight continues.
        state.timeline.end_context(handle);
        self.memory().leave_green_context(device);
        Ok(())
    }

    pub(crate) fn cuCtxFromGreenCtx(
        &self,
        context: Raw<*mut CUctx_st>,
        green: Raw<CUgreenCtx_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let handle = green.handle();
        self.green(&state, handle)?;
        // The same handle (measured on an H200, driver 580).
        context.set(as_pointer(handle))?;
        if let Some(green) = state.greens.get_mut(&handle) {
            green.is_context = true;
        }
        Ok(())
    }

    pub(crate) fn cuGreenCtxRecordEvent(
        &self,
        green: Raw<CUgreenCtx_st>,
        event: Raw<CUevent_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let device = self.green(&state, green.handle())?.device;
        self.record_context(&mut state, event.handle(), device, Some(green.handle()))
    }

    /// Records all work of a green context, or of a device's primary context and all its green contexts. Refused if
    /// one of these has a stream in a capture; for the primary context that is not measured.
    pub(super) fn record_context(
        &self,
        state: &mut State,
        event: u64,
        device: usize,
        green: Option<u64>,
    ) -> Answer {
        state.none_captured(device, green)?;
        self.wait_for_late_copies(state, device, green);
        self.record(state, event, device, |timeline| match green {
            Some(context) => timeline.mark_context(device, context),
            None => timeline.mark_device(device),
        })
    }

    /// Accepts an event of any context or device, as long as it is alive.
    pub(crate) fn cuGreenCtxWaitEvent(
        &self,
        green: Raw<CUgreenCtx_st>,
        event: Raw<CUevent_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        let device = self.green(&state, green.handle())?.device;
        self.contexts_wait(&mut state, event.handle(), device, &[green.handle()])
    }

    /// Makes contexts wait for an event that belongs to no capture.
    pub(super) fn contexts_wait(
        &self,
        state: &mut State,
        event: u64,
        device: usize,
        contexts: &[u64],
    ) -> Answer {
        let recorded = self.recorded(state, event)?;
        for context in contexts {
            state.none_captured(device, Some(*context))?;
        }
        for context in contexts {
            if let Some(mark) = &recorded {
                state.timeline.context_waits(device, *context, mark);
            }
        }
        Ok(())
    }

    pub(crate) fn cuGreenCtxStreamCreate(
        &self,
        stream: Raw<*mut CUstream_st>,
        green: Raw<CUgreenCtx_st>,
        flags: u32,
        priority: i32,
    ) -> Answer {
        let mut state = self.enter()?;
        stream.required()?;
        let handle = green.handle();
        self.green(&state, handle)?;
        // Anything else is refused (measured on an H200, driver 580).
        require(flags == CUstream_flags_enum::CU_STREAM_NON_BLOCKING.0)?;
        let handle = self.new_stream(&mut state, Context::Green(handle), flags, priority)?;
        stream.set(as_pointer(handle))
    }

    /// Without a green context, means that of the calling thread (13.0 header).
    pub(crate) fn cuGreenCtxGetId(&self, green: Raw<CUgreenCtx_st>, id: Raw<u64>) -> Answer {
        let state = self.enter()?;
        let handle = if green.is_null() {
            match self.current(&state)? {
                Context::Green(handle) => handle,
                Context::Primary(_) => return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
            }
        } else {
            self.green(&state, green.handle())?;
            green.handle()
        };
        id.set(self.green(&state, handle)?.id)
    }
}

//! Events. They belong to the device's primary context, so they outlive every green context.

use std::time::Instant;

use cuda_green_sys::{CUevent_flags_enum, CUevent_st, CUresult, CUstream_st};

use super::{Driver, Kind, State, as_pointer, require};
use crate::raw::{Answer, Raw};

pub(super) struct Event {
    pub(super) device: usize,
    timing: bool,
    recorded: Option<Instant>,
}

impl Driver {
    pub(super) fn event<'s>(&self, state: &'s State, handle: u64) -> Result<&'s Event, CUresult> {
        state
            .events
            .get(&handle)
            .ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    /// Records an event in work of a device, which must be the event's own.
    pub(super) fn record(&self, state: &mut State, handle: u64, device: usize) -> Answer {
        match state.events.get_mut(&handle) {
            Some(event) if event.device == device => {
                event.recorded = Some(Instant::now());
                Ok(())
            }
            _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
        }
    }

    pub(crate) fn cuEventCreate(&self, event: Raw<*mut CUevent_st>, flags: u32) -> Answer {
        let mut state = self.enter()?;
        event.required()?;
        let no_timing = CUevent_flags_enum::CU_EVENT_DISABLE_TIMING.0;
        let interprocess = CUevent_flags_enum::CU_EVENT_INTERPROCESS.0;
        let known = CUevent_flags_enum::CU_EVENT_BLOCKING_SYNC.0 | no_timing | interprocess;
        require(flags & !known == 0)?;
        // An event for other processes must not measure time (11.4 header and later).
        require(flags & interprocess == 0 || flags & no_timing != 0)?;
        let context = self.current(&state)?;
        let device = state.device_of(context)?;
        let handle = state.new_handle(self.number, Kind::Event);
        state.events.insert(
            handle,
            Event {
                device,
                timing: flags & no_timing == 0,
                recorded: None,
            },
        );
        event.set(as_pointer(handle))
    }

    pub(crate) fn cuEventDestroy_v2(&self, event: Raw<CUevent_st>) -> Answer {
        let mut state = self.enter()?;
        state
            .events
            .remove(&event.handle())
            .map(drop)
            .ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    pub(crate) fn cuEventRecord(&self, event: Raw<CUevent_st>, stream: Raw<CUstream_st>) -> Answer {
        let mut state = self.enter()?;
        let context = self.stream_context(&state, stream.handle())?;
        let device = state.device_of(context)?;
        self.record(&mut state, event.handle(), device)
    }

    /// An event that was never recorded counts as done.
    pub(crate) fn cuEventQuery(&self, event: Raw<CUevent_st>) -> Answer {
        let state = self.enter()?;
        self.event(&state, event.handle()).map(drop)
    }

    pub(crate) fn cuEventSynchronize(&self, event: Raw<CUevent_st>) -> Answer {
        let state = self.enter()?;
        let device = self.event(&state, event.handle())?.device;
        self.memory().release_unused(device);
        Ok(())
    }

    pub(crate) fn cuEventElapsedTime(
        &self,
        milliseconds: Raw<f32>,
        start: Raw<CUevent_st>,
        end: Raw<CUevent_st>,
    ) -> Answer {
        let state = self.enter()?;
        milliseconds.required()?;
        let start = self.event(&state, start.handle())?;
        let end = self.event(&state, end.handle())?;
        let (Some(from), Some(to), true, true) =
            (start.recorded, end.recorded, start.timing, end.timing)
        else {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        };
        let forward = to.saturating_duration_since(from).as_secs_f64();
        let backward = from.saturating_duration_since(to).as_secs_f64();
        milliseconds.set(((forward - backward) * 1e3) as f32)
    }
}

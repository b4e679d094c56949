//! Events. They belong to the device's primary context, so they outlive every green context.

use cuda_green_sys::{CUevent_flags_enum, CUevent_st, CUresult, CUstream_st};

use super::{Driver, Kind, State, as_pointer, require};
use crate::{
    live::MadeAt,
    raw::{Answer, Raw},
    timeline::{Mark, QUERY_NS, Timeline},
};

pub(super) struct Event {
    pub(super) device: usize,
    timing: bool,
    /// The end of the work that was recorded last.
    pub(super) recorded: Option<Mark>,
    pub(super) made_at: MadeAt,
}

/// Why there is no such event: its primary context took it along (measured on an H200, driver 580), or it
/// never was one or was destroyed (where that driver may crash).
fn missing(state: &State, handle: u64) -> CUresult {
    if state.lost_events.contains(&handle) {
        CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
    } else {
        CUresult::CUDA_ERROR_INVALID_HANDLE
    }
}

impl Driver {
    pub(super) fn event<'s>(&self, state: &'s State, handle: u64) -> Result<&'s Event, CUresult> {
        let found = state.events.get(&handle).ok_or(missing(state, handle))?;
        self.present(found.device)?;
        Ok(found)
    }

    /// Records an event in work of a device, which must be the event's own.
    pub(super) fn record(
        &self,
        state: &mut State,
        handle: u64,
        device: usize,
        mark: impl FnOnce(&mut Timeline) -> Mark,
    ) -> Answer {
        match state.events.get_mut(&handle) {
            Some(event) if event.device == device => {
                event.recorded = Some(mark(&mut state.timeline));
                Ok(())
            }
            _ => Err(missing(state, handle)),
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
                made_at: MadeAt::now(),
            },
        );
        event.set(as_pointer(handle))
    }

    pub(crate) fn cuEventDestroy_v2(&self, event: Raw<CUevent_st>) -> Answer {
        let mut state = self.enter()?;
        let handle = event.handle();
        self.event(&state, handle)?;
        let removed = state.events.remove(&handle);
        removed.map(drop).ok_or(missing(&state, handle))
    }

    pub(crate) fn cuEventRecord(&self, event: Raw<CUevent_st>, stream: Raw<CUstream_st>) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        self.record(&mut state, event.handle(), lane.device, |timeline| {
            timeline.mark(lane)
        })
    }

    /// An event that was never recorded counts as done.
    pub(crate) fn cuEventQuery(&self, event: Raw<CUevent_st>) -> Answer {
        let mut state = self.enter()?;
        let recorded = &self.event(&state, event.handle())?.recorded;
        if recorded.as_ref().is_none_or(|mark| mark.time().is_some()) {
            return Ok(());
        }
        state.timeline.spend(QUERY_NS);
        Err(CUresult::CUDA_ERROR_NOT_READY)
    }

    pub(crate) fn cuEventSynchronize(&self, event: Raw<CUevent_st>) -> Answer {
        let mut state = self.enter()?;
        let found = self.event(&state, event.handle())?;
        let (device, recorded) = (found.device, found.recorded.clone());
        if let Some(mark) = recorded {
            state.timeline.wait_mark(&mark);
        }
        self.memory().release_unused(device);
        Ok(())
    }

    /// Virtual time.
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
            (&start.recorded, &end.recorded, start.timing, end.timing)
        else {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        };
        let (Some(from), Some(to)) = (from.time(), to.time()) else {
            return Err(CUresult::CUDA_ERROR_NOT_READY);
        };
        milliseconds.set(((to as f64 - from as f64) / 1e6) as f32)
    }
}

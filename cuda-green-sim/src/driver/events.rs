//! Events. They belong to the device's primary context, so they outlive every green context.

use cuda_green_sys::{CUevent_flags_enum, CUevent_st, CUresult, CUstream_st};

use super::{
    Driver, Kind, State, as_pointer, capture::CapturedAt, require, stream_actions::Action,
};
use crate::{
    c_args::{Answer, Raw},
    leaks::MadeAt,
    sync::MutexGuard,
    timeline::{LaneOf, Mark, Timeline},
};

pub(super) struct Event {
    pub(super) device: usize,
    timing: bool,
    /// The end of the work that it recorded last.
    recorded: Option<Mark>,
    /// The place in a capture where it was recorded, if its last record was in one.
    captured: Option<CapturedAt>,
    pub(super) made_at: MadeAt,
}

/// Returns why there is no such event: it was destroyed with its primary context (measured on an H200, driver 580),
/// or it never existed or was destroyed (where that driver may crash).
fn missing(state: &State, handle: u64) -> CUresult {
    if state.lost_events.contains(&handle) {
        CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
    } else {
        CUresult::CUDA_ERROR_INVALID_HANDLE
    }
}

impl State {
    /// Returns the end of the work that an event recorded last, if any.
    pub(super) fn mark_of(&self, event: u64) -> Option<Mark> {
        self.events.get(&event)?.recorded.clone()
    }

    /// Records the event in a running graph.
    pub(super) fn set_mark(&mut self, event: u64, mark: Mark) {
        if let Some(event) = self.events.get_mut(&event) {
            event.recorded = Some(mark);
            event.captured = None;
        }
    }
}

impl Driver {
    pub(super) fn event<'s>(&self, state: &'s State, handle: u64) -> Result<&'s Event, CUresult> {
        let found = state.events.get(&handle).ok_or(missing(state, handle))?;
        self.present(found.device)?;
        Ok(found)
    }

    /// Records an event after work of a device, which must be the event's own.
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
                event.captured = None;
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
                captured: None,
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
        self.cuEventRecordWithFlags(event, stream, 0)
    }

    /// Flag 1 adds a node to the captured graph (11.1 header). Outside a capture the flag is refused, as
    /// `cuStreamWaitEvent` refuses its own (measured on an H200, driver 580).
    pub(crate) fn cuEventRecordWithFlags(
        &self,
        event: Raw<CUevent_st>,
        stream: Raw<CUstream_st>,
        flags: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        require(flags <= 1)?;
        let handle = event.handle();
        if flags == 1 {
            self.event(&state, handle)?;
            return self.external(state, lane, Action::Record(handle));
        }
        let Some(at) = state.captured_at(lane)? else {
            self.after_late_copies(&mut state, lane);
            return self.record(&mut state, handle, lane.device, |timeline| {
                timeline.mark(lane)
            });
        };
        match state.events.get_mut(&handle) {
            Some(event) if event.device == lane.device => {
                event.recorded = None;
                event.captured = Some(at);
                Ok(())
            }
            _ => Err(missing(&state, handle)),
        }
    }

    /// Records an action that only a graph can do.
    pub(super) fn external(
        &self,
        mut state: MutexGuard<'_, State>,
        lane: LaneOf,
        action: Action,
    ) -> Answer {
        match state.capture(lane, action)? {
            None => Ok(()),
            Some(_) => Err(CUresult::CUDA_ERROR_ILLEGAL_STATE),
        }
    }

    /// Returns the work that a live event recorded, to be queried or waited for. An event recorded in a capture can
    /// be neither, and the attempt invalidates the capture (measured on an H200, driver 580).
    pub(super) fn recorded(
        &self,
        state: &mut State,
        handle: u64,
    ) -> Result<Option<Mark>, CUresult> {
        let event = self.event(state, handle)?;
        if let Some(at) = event.captured.clone() {
            state.spoil(&at);
            return Err(state.cannot_ask(&at));
        }
        Ok(event.recorded.clone())
    }

    /// Makes a stream wait for an event, or adds it to the event's capture.
    pub(super) fn wait_event(&self, state: &mut State, lane: LaneOf, handle: u64) -> Answer {
        let event = self.event(state, handle)?;
        if let Some(at) = event.captured.clone() {
            return state.join_capture(lane, &at);
        }
        // There is nothing to wait for in an event that was never recorded.
        let Some(mark) = event.recorded.clone() else {
            return Ok(());
        };
        state.isolated(lane)?;
        state.timeline.submit(lane, None, &[&mark]);
        Ok(())
    }

    /// Treats an event that was never recorded as done.
    pub(crate) fn cuEventQuery(&self, event: Raw<CUevent_st>) -> Answer {
        let mut state = self.enter()?;
        let recorded = self.recorded(&mut state, event.handle())?;
        self.safe_in_captures(&mut state)?;
        let Some(mark) = recorded.filter(|mark| mark.time().is_none()) else {
            return Ok(());
        };
        state.spend_on_query(|timeline| timeline.mark_waits_for_gate(&mark));
        Err(CUresult::CUDA_ERROR_NOT_READY)
    }

    pub(crate) fn cuEventSynchronize(&self, event: Raw<CUevent_st>) -> Answer {
        let mut state = self.enter()?;
        let recorded = self.recorded(&mut state, event.handle())?;
        self.safe_in_captures(&mut state)?;
        let device = self.event(&state, event.handle())?.device;
        if let Some(mark) = recorded {
            state = self.wait_mark(state, device, &mark)?;
        }
        drop(state);
        self.memory().release_unused(device);
        Ok(())
    }

    /// Measures in virtual time.
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
        // There is no time between events of two devices (CUDA's programming guide, which names no code).
        if start.device != end.device {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        // The capture stays as it is (measured on an H200, driver 580).
        if let Some(at) = start.captured.as_ref().or(end.captured.as_ref()) {
            return Err(state.cannot_ask(at));
        }
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

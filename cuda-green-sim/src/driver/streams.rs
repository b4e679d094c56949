//! Streams: the context that decides where their kernels run, and their order in virtual time.

use cuda_green_sys::{
    CUctx_st, CUevent_st, CUgreenCtx_st, CUresult, CUstream_flags_enum, CUstream_st,
};

use super::{Context, Driver, Kind, State, as_pointer, require, stream_actions::Action};
use crate::{
    c_args::{Answer, Raw},
    leaks::MadeAt,
    thread_number::ThreadNumber,
    timeline::{Lane, LaneOf},
};

/// The handles of the default streams: none, legacy, and per thread.
const DEFAULT_STREAMS: std::ops::RangeInclusive<u64> = 0..=2;
const PER_THREAD: u64 = 2;

pub(super) struct Stream {
    pub(super) device: usize,
    /// The handle of its green context; `None` in the primary context.
    pub(super) green: Option<u64>,
    flags: u32,
    priority: i32,
    pub(super) made_at: MadeAt,
}

impl Driver {
    /// Returns the context of a stream, which must be alive. A default stream belongs to the calling thread's current
    /// context.
    pub(super) fn stream_context(&self, state: &State, handle: u64) -> Result<Context, CUresult> {
        if DEFAULT_STREAMS.contains(&handle) {
            return match self.current(state)? {
                // A green context has no stream per thread (12.5 header; measured on an H200, driver 580).
                Context::Green(_) if handle == PER_THREAD => {
                    Err(CUresult::CUDA_ERROR_INVALID_HANDLE)
                }
                context => Ok(context),
            };
        }
        let stream = self.stream(state, handle)?;
        Ok(match stream.green {
            Some(green) => Context::Green(green),
            None => Context::Primary(stream.device),
        })
    }

    /// Returns the lane of a stream, which must be alive.
    pub(super) fn lane(&self, state: &State, handle: u64) -> Result<LaneOf, CUresult> {
        let found = self.stream_context(state, handle)?;
        let device = state.device_of(found)?;
        let context = state.context_key(found);
        let (lane, blocking) = match handle {
            PER_THREAD => (Lane::PerThread(context, ThreadNumber::current()), true),
            handle if DEFAULT_STREAMS.contains(&handle) => (Lane::Legacy(context), false),
            handle => {
                let flags = self.stream(state, handle)?.flags;
                let non_blocking = CUstream_flags_enum::CU_STREAM_NON_BLOCKING.0;
                (Lane::Stream(handle), flags & non_blocking == 0)
            }
        };
        Ok(LaneOf {
            lane,
            device,
            context,
            blocking,
        })
    }

    /// Returns the priority of a stream's work; that of the default streams is 0.
    pub(super) fn priority(&self, state: &State, handle: u64) -> Result<i32, CUresult> {
        if DEFAULT_STREAMS.contains(&handle) {
            return Ok(0);
        }
        Ok(self.stream(state, handle)?.priority)
    }

    /// Returns a stream that the client made. One whose green context is gone returns 709 up to 13.0 (measured on an
    /// H200, driver 580) and 917 from 13.1 (its header).
    fn stream<'s>(&self, state: &'s State, handle: u64) -> Result<&'s Stream, CUresult> {
        match state.streams.get(&handle) {
            Some(stream)
                if stream
                    .green
                    .is_none_or(|green| state.greens.contains_key(&green)) =>
            {
                self.present(stream.device)?;
                Ok(stream)
            }
            Some(_) => Err(CUresult::CUDA_ERROR_STREAM_DETACHED),
            None if state.lost_streams.contains(&handle) => {
                Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED)
            }
            None => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
        }
    }

    pub(super) fn new_stream(
        &self,
        state: &mut State,
        context: Context,
        flags: u32,
        priority: i32,
    ) -> Result<u64, CUresult> {
        let device = state.device_of(context)?;
        let (least, greatest) = self.profile.device.stream_priorities;
        let stream = Stream {
            device,
            green: match context {
                Context::Green(green) => Some(green),
                Context::Primary(_) => None,
            },
            // All streams of a green context are non-blocking (measured on an H200, driver 580).
            flags: match context {
                Context::Green(_) => CUstream_flags_enum::CU_STREAM_NON_BLOCKING.0,
                Context::Primary(_) => flags,
            },
            priority: priority.clamp(greatest, least),
            made_at: MadeAt::now(),
        };
        let handle = state.new_handle(self.number, Kind::Stream);
        state.streams.insert(handle, stream);
        Ok(handle)
    }

    pub(crate) fn cuStreamCreateWithPriority(
        &self,
        stream: Raw<*mut CUstream_st>,
        flags: u32,
        priority: i32,
    ) -> Answer {
        let mut state = self.enter()?;
        stream.required()?;
        require(flags <= CUstream_flags_enum::CU_STREAM_NON_BLOCKING.0)?;
        let context = self.current(&state)?;
        let handle = self.new_stream(&mut state, context, flags, priority)?;
        stream.set(as_pointer(handle))
    }

    pub(crate) fn cuStreamDestroy_v2(&self, stream: Raw<CUstream_st>) -> Answer {
        let mut state = self.enter()?;
        match self.stream(&state, stream.handle()) {
            // The only call that still works on a stream without its context, from 13.1 on.
            Ok(_) | Err(CUresult::CUDA_ERROR_STREAM_DETACHED) => {}
            Err(code) => return Err(code),
        }
        state.streams.remove(&stream.handle());
        let lane = Lane::Stream(stream.handle());
        // A capture that began in it is gone (measured on an H200, driver 580); one that it was forked into is
        // invalidated, which is not measured.
        state.captures.retain(|_, capture| !capture.began_in(&lane));
        state.invalidate(|capture| capture.has(&lane));
        state.timeline.end_lane(lane);
        Ok(())
    }

    pub(crate) fn cuStreamSynchronize(&self, stream: Raw<CUstream_st>) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        state.not_captured(lane)?;
        self.safe_in_captures(&mut state)?;
        self.after_late_copies(&mut state, lane);
        // The default stream's end includes that of the streams it waits for.
        let end = state.timeline.mark(lane);
        let _state = self.wait_mark(state, lane.device, &end)?;
        self.memory().release_unused(lane.device);
        Ok(())
    }

    pub(crate) fn cuStreamQuery(&self, stream: Raw<CUstream_st>) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        state.not_captured(lane)?;
        self.safe_in_captures(&mut state)?;
        if state.timeline.lane_is_done(lane) {
            self.after_late_copies(&mut state, lane);
            return Ok(());
        }
        state.spend_on_query(|timeline| timeline.lane_waits_for_gate(lane));
        Err(CUresult::CUDA_ERROR_NOT_READY)
    }

    pub(crate) fn cuStreamWaitEvent(
        &self,
        stream: Raw<CUstream_st>,
        event: Raw<CUevent_st>,
        flags: u32,
    ) -> Answer {
        let mut state = self.enter()?;
        require(flags <= 1)?;
        let lane = self.lane(&state, stream.handle())?;
        // 1 is for captures (11.1 header); outside one it is refused (measured on an H200, driver 580).
        if flags == 1 {
            self.event(&state, event.handle())?;
            return self.external(state, lane, Action::Wait(event.handle()));
        }
        self.wait_event(&mut state, lane, event.handle())
    }

    /// Returns a stream's id. Streams are numbered as they are made; a default stream has its context's number, which
    /// no stream has.
    pub(crate) fn cuStreamGetId(&self, stream: Raw<CUstream_st>, id: Raw<u64>) -> Answer {
        let state = self.enter()?;
        id.required()?;
        let lane = self.lane(&state, stream.handle())?;
        id.set(match lane.lane {
            Lane::Stream(handle) => handle >> 8,
            Lane::Legacy(_) => 1,
            Lane::PerThread(..) => 2,
        })
    }

    /// Returns the context that must be current to create a stream like this one.
    pub(crate) fn cuStreamGetCtx(
        &self,
        stream: Raw<CUstream_st>,
        context: Raw<*mut CUctx_st>,
    ) -> Answer {
        let state = self.enter()?;
        context.required()?;
        let found = self.stream_context(&state, stream.handle())?;
        context.set(as_pointer(state.context_key(found)))
    }

    pub(crate) fn cuStreamGetPriority(
        &self,
        stream: Raw<CUstream_st>,
        priority: Raw<i32>,
    ) -> Answer {
        let state = self.enter()?;
        if DEFAULT_STREAMS.contains(&stream.handle()) {
            self.stream_context(&state, stream.handle())?;
            return priority.set(0);
        }
        priority.set(self.stream(&state, stream.handle())?.priority)
    }

    /// Refuses to return the flags of a stream in a capture, whose priority can be queried (measured on an H200,
    /// driver 580).
    pub(crate) fn cuStreamGetFlags(&self, stream: Raw<CUstream_st>, flags: Raw<u32>) -> Answer {
        let mut state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?.lane;
        state.in_no_capture(&lane)?;
        if DEFAULT_STREAMS.contains(&stream.handle()) {
            // A green context's default stream is non-blocking (measured on an H200, driver 580).
            return flags.set(match self.stream_context(&state, stream.handle())? {
                Context::Green(_) => CUstream_flags_enum::CU_STREAM_NON_BLOCKING.0,
                Context::Primary(_) => 0,
            });
        }
        flags.set(self.stream(&state, stream.handle())?.flags)
    }

    /// Returns the primary context and the green one for a green context's stream (12.5 header).
    pub(crate) fn cuStreamGetCtx_v2(
        &self,
        stream: Raw<CUstream_st>,
        context: Raw<*mut CUctx_st>,
        green: Raw<*mut CUgreenCtx_st>,
    ) -> Answer {
        let state = self.enter()?;
        context.required()?;
        green.required()?;
        let found = self.stream_context(&state, stream.handle())?;
        let device = state.device_of(found)?;
        let handle = match found {
            Context::Green(handle) => handle,
            Context::Primary(_) => 0,
        };
        context.set(as_pointer(state.devices[device].primary))?;
        green.set(as_pointer(handle))
    }

    pub(crate) fn cuStreamGetGreenCtx(
        &self,
        stream: Raw<CUstream_st>,
        green: Raw<*mut CUgreenCtx_st>,
    ) -> Answer {
        let state = self.enter()?;
        green.required()?;
        green.set(match self.stream_context(&state, stream.handle())? {
            Context::Green(handle) => as_pointer(handle),
            Context::Primary(_) => std::ptr::null_mut(),
        })
    }
}

//! The entry points of captures, and the calls that threads may not make beside them.

use std::{cell::RefCell, collections::HashMap};

use cuda_green_sys::{
    CUgraph_st, CUresult, CUstream_st, CUstreamCaptureMode, CUstreamCaptureStatus_enum as Status,
};

use super::{
    Driver, State, as_pointer,
    capture::{Capture, GLOBAL, RELAXED},
    graphs::Graph,
    require,
};
use crate::{
    c_args::{Answer, Raw},
    leaks::MadeAt,
    thread_number::ThreadNumber,
};

thread_local! {
    /// Each thread's mode, by the driver's number, where it is not the default.
    static MODES: RefCell<HashMap<u64, CUstreamCaptureMode>> = RefCell::default();
}

impl Driver {
    fn thread_mode(&self) -> CUstreamCaptureMode {
        let mode = MODES.try_with(|modes| modes.borrow().get(&self.number).copied());
        // At the end of a thread its mode may already be gone.
        mode.ok().flatten().unwrap_or(GLOBAL)
    }

    /// Refuses calls that are not safe beside a capture, and invalidates the captures concerned.
    ///
    /// The 13.5 header (`cuThreadExchangeStreamCaptureMode`) says whose captures those are; an H200 (driver 580)
    /// confirmed it. The calls were measured there too: those that allocate or free; that make, query or destroy a
    /// pool; that instantiate a graph or destroy an instance; that unload a module; that query or wait for an event
    /// or a stream. Blocking copies, loading modules, green contexts and waiting for another context are not among
    /// them. Registered host memory and virtual memory are assumed to be; that is not measured.
    pub(super) fn safe_in_captures(&self, state: &mut State) -> Answer {
        if state.captures.is_empty() {
            return Ok(());
        }
        let mode = self.thread_mode();
        if mode == RELAXED {
            return Ok(());
        }
        let here = ThreadNumber::current();
        let concerned = |capture: &Capture| {
            if capture.thread == here {
                capture.mode != RELAXED
            } else {
                mode == GLOBAL && capture.mode == GLOBAL
            }
        };
        if state.invalidate(concerned) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Accepts a number that is not a mode (3, measured on an H200, driver 580).
    pub(crate) fn cuThreadExchangeStreamCaptureMode(
        &self,
        mode: Raw<CUstreamCaptureMode>,
    ) -> Answer {
        self.ready()?;
        let new = mode.get()?;
        let old = self.thread_mode();
        let _ = MODES.try_with(|modes| modes.borrow_mut().insert(self.number, new));
        mode.set(old)
    }

    /// Refuses the legacy default stream; that of a green context can be captured (measured on an H200, driver 580).
    pub(crate) fn cuStreamBeginCapture_v2(
        &self,
        stream: Raw<CUstream_st>,
        mode: CUstreamCaptureMode,
    ) -> Answer {
        let mut state = self.enter()?;
        let of = self.lane(&state, stream.handle())?;
        require(mode.0 <= RELAXED.0)?;
        if state.is_legacy(of) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if state.is_captured(&of.lane) {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        }
        let number = state.serial;
        state.serial += 1;
        state.captures.insert(number, Capture::begun(of, mode));
        Ok(())
    }

    /// Ends the capture even on a wrong thread, and the graph is lost then (measured on an H200, driver 580).
    pub(crate) fn cuStreamEndCapture(
        &self,
        stream: Raw<CUstream_st>,
        graph: Raw<*mut CUgraph_st>,
    ) -> Answer {
        let mut state = self.enter()?;
        graph.set(std::ptr::null_mut())?;
        let lane = self.lane(&state, stream.handle())?.lane;
        let number = state
            .capture_of(&lane)
            .ok_or(CUresult::CUDA_ERROR_ILLEGAL_STATE)?;
        let capture = &state.captures[&number];
        if capture.origin != lane {
            state.invalidate(|capture| capture.has(&lane));
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        let Some(capture) = state.captures.remove(&number) else {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        };
        if capture.mode != RELAXED && capture.thread != ThreadNumber::current() {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if !capture.is_joined() {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        }
        let made = Graph {
            nodes: capture.nodes.into(),
            made_at: MadeAt::now(),
        };
        graph.set(as_pointer(self.keep_graph(&mut state, made)))
    }

    pub(crate) fn cuStreamIsCapturing(
        &self,
        stream: Raw<CUstream_st>,
        status: Raw<Status>,
    ) -> Answer {
        let state = self.enter()?;
        status.required()?;
        let of = self.lane(&state, stream.handle())?;
        let found = match state.capture_of(&of.lane) {
            Some(number) if state.captures[&number].invalid => {
                Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED
            }
            Some(_) => Status::CU_STREAM_CAPTURE_STATUS_ACTIVE,
            // The query invalidates nothing (measured on an H200, driver 580).
            None if state.captures.values().any(|capture| capture.holds_up(of)) => {
                return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            }
            None => Status::CU_STREAM_CAPTURE_STATUS_NONE,
        };
        status.set(found)
    }
}

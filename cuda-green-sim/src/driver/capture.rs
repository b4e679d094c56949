//! Captures: what is asked of a stream becomes a graph instead of being done.
//!
//! Which calls are refused in a capture, and with which code, is from the 13.5 header; what that leaves open
//! is measured, or says that it is not.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::Arc,
    thread::ThreadId,
};

use cuda_green_sys::{
    CUgraph_st, CUresult, CUstream_st, CUstreamCaptureMode, CUstreamCaptureStatus_enum as Status,
};

use super::{
    Driver, State,
    actions::Action,
    as_pointer,
    graphs::{Graph, Node},
    require,
};
use crate::{
    live::MadeAt,
    raw::{Answer, Raw},
    timeline::{Lane, LaneOf},
};

const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

thread_local! {
    /// Each thread's mode where it is not the default, by the driver's number.
    static MODES: RefCell<HashMap<u64, CUstreamCaptureMode>> = RefCell::default();
}

/// A capture that has begun and not ended.
pub(super) struct Capture {
    /// The stream in which it began.
    origin: Lane,
    mode: CUstreamCaptureMode,
    thread: ThreadId,
    nodes: Vec<Node>,
    /// Its streams: the origin, and those that waited for events of it.
    streams: HashMap<Lane, Captured>,
    invalid: bool,
}

/// A stream in a capture.
struct Captured {
    of: LaneOf,
    /// The nodes that its next one follows.
    last: Vec<usize>,
}

/// A point in a capture, as an event holds it: the capture's number, and nodes.
#[derive(Clone)]
pub(super) struct CapturedAt {
    capture: u64,
    nodes: Vec<usize>,
}

impl Capture {
    /// All nodes that come before some, themselves included.
    fn reached(&self, from: &[usize]) -> HashSet<usize> {
        let mut reached = HashSet::new();
        let mut next = from.to_vec();
        while let Some(index) = next.pop() {
            if reached.insert(index)
                && let Some(node) = self.nodes.get(index)
            {
                next.extend(&node.after);
            }
        }
        reached
    }

    pub(super) fn began_in(&self, lane: &Lane) -> bool {
        self.origin == *lane
    }

    /// Whether all its streams came back to the origin.
    fn is_joined(&self) -> bool {
        let of_origin = self.streams.get(&self.origin);
        let reached = self.reached(of_origin.map_or(&[], |stream| &stream.last));
        let mut last = self.streams.values().flat_map(|stream| &stream.last);
        last.all(|node| reached.contains(node))
    }
}

impl State {
    /// The capture that a stream is in, by its number.
    fn capture_of(&self, lane: &Lane) -> Option<u64> {
        self.captures
            .iter()
            .find(|(_, capture)| capture.streams.contains_key(lane))
            .map(|(number, _)| *number)
    }

    fn invalidate(&mut self, concerned: impl Fn(&Capture) -> bool) -> bool {
        let mut any = false;
        for capture in self.captures.values_mut().filter(|c| concerned(c)) {
            capture.invalid = true;
            any = true;
        }
        any
    }

    /// Keeps an action where its stream is in a capture; gives it back to be done where not.
    pub(super) fn capture(
        &mut self,
        of: LaneOf,
        action: Action,
    ) -> Result<Option<Action>, CUresult> {
        let Some(number) = self.capture_of(&of.lane) else {
            self.not_beside_a_capture(of)?;
            return Ok(Some(action));
        };
        let Some(capture) = self.captures.get_mut(&number) else {
            return Ok(Some(action));
        };
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if let Some(stream) = capture.streams.get_mut(&of.lane) {
            let index = capture.nodes.len();
            let after = std::mem::replace(&mut stream.last, vec![index]);
            capture.nodes.push(Node {
                action: Arc::new(action),
                after,
            });
        }
        Ok(None)
    }

    /// Puts a graph's nodes into a capture, in place of a launch. False where the stream is in none.
    pub(super) fn capture_graph(&mut self, of: LaneOf, nodes: &[Node]) -> Result<bool, CUresult> {
        let Some(number) = self.capture_of(&of.lane) else {
            self.not_beside_a_capture(of)?;
            return Ok(false);
        };
        let Some(capture) = self.captures.get_mut(&number) else {
            return Ok(false);
        };
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let Some(stream) = capture.streams.get_mut(&of.lane) else {
            return Ok(false);
        };
        let first = capture.nodes.len();
        for node in nodes {
            let after = match node.after.as_slice() {
                [] => stream.last.clone(),
                after => after.iter().map(|index| first + index).collect(),
            };
            let action = Arc::clone(&node.action);
            capture.nodes.push(Node { action, after });
        }
        if !nodes.is_empty() {
            stream.last = (first..capture.nodes.len()).collect();
        }
        Ok(true)
    }

    /// Work in the legacy default stream would follow that of its context's blocking streams, which it
    /// cannot while one of them is in a capture.
    fn not_beside_a_capture(&mut self, of: LaneOf) -> Answer {
        let follows = |stream: &Captured| stream.of.blocking && stream.of.context == of.context;
        let concerned = |capture: &Capture| capture.streams.values().any(follows);
        if matches!(of.lane, Lane::Legacy(_)) && self.invalidate(concerned) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        Ok(())
    }

    /// Refuses to ask or to wait for a stream in a capture, and spoils the capture.
    pub(super) fn not_captured(&mut self, of: LaneOf) -> Answer {
        if self.invalidate(|capture| capture.streams.contains_key(&of.lane)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        self.not_beside_a_capture(of)
    }

    /// The same for all streams of a context, or of a device.
    pub(super) fn none_captured(&mut self, device: usize, context: Option<u64>) -> Answer {
        let concerned = |stream: &Captured| {
            stream.of.device == device && context.is_none_or(|context| stream.of.context == context)
        };
        if self.invalidate(|capture| capture.streams.values().any(concerned)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Spoils the captures that a stream or a context takes part in, which ends.
    pub(super) fn spoil_captures(&mut self, ends: impl Fn(&LaneOf) -> bool) {
        self.invalidate(|capture| capture.streams.values().any(|stream| ends(&stream.of)));
    }

    /// What an event holds that is recorded in a stream in a capture; `None` where the stream is in none.
    pub(super) fn captured_at(&mut self, of: LaneOf) -> Result<Option<CapturedAt>, CUresult> {
        let Some(number) = self.capture_of(&of.lane) else {
            self.not_beside_a_capture(of)?;
            return Ok(None);
        };
        let capture = &self.captures[&number];
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        Ok(capture.streams.get(&of.lane).map(|stream| CapturedAt {
            capture: number,
            nodes: stream.last.clone(),
        }))
    }

    /// A stream waits for an event of a capture, and so becomes part of it.
    pub(super) fn join_capture(&mut self, of: LaneOf, at: &CapturedAt) -> Answer {
        let own = self.capture_of(&of.lane);
        let Some(capture) = self.captures.get_mut(&at.capture) else {
            // The capture has ended. Its code is not measured.
            return Err(CUresult::CUDA_ERROR_CAPTURED_EVENT);
        };
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if own.is_some_and(|own| own != at.capture) {
            capture.invalid = true;
            self.invalidate(|capture| capture.streams.contains_key(&of.lane));
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
        if matches!(of.lane, Lane::Legacy(_)) {
            capture.invalid = true;
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        let stream = capture.streams.entry(of.lane).or_insert(Captured {
            of,
            last: Vec::new(),
        });
        for node in &at.nodes {
            if !stream.last.contains(node) {
                stream.last.push(*node);
            }
        }
        Ok(())
    }

    /// A stream in a capture cannot wait for work outside of it.
    pub(super) fn isolated(&mut self, of: LaneOf) -> Answer {
        if self.invalidate(|capture| capture.streams.contains_key(&of.lane)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        }
        self.not_beside_a_capture(of)
    }

    /// Whether a stream is in a capture that is still good.
    pub(super) fn is_captured(&self, lane: &Lane) -> bool {
        self.capture_of(lane).is_some()
    }
}

impl Driver {
    fn thread_mode(&self) -> CUstreamCaptureMode {
        MODES.with_borrow(|modes| modes.get(&self.number).copied().unwrap_or(GLOBAL))
    }

    /// Refuses calls that are not safe beside a capture, such as those that allocate, and spoils the
    /// captures concerned. The rules are those of `cuThreadExchangeStreamCaptureMode` (13.5 header).
    pub(super) fn safe_in_captures(&self, state: &mut State) -> Answer {
        if state.captures.is_empty() {
            return Ok(());
        }
        let mode = self.thread_mode();
        if mode == RELAXED {
            return Ok(());
        }
        let here = std::thread::current().id();
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

    pub(crate) fn cuThreadExchangeStreamCaptureMode(
        &self,
        mode: Raw<CUstreamCaptureMode>,
    ) -> Answer {
        self.ready()?;
        let new = mode.get()?;
        require(new.0 <= RELAXED.0)?;
        let old = self.thread_mode();
        MODES.with_borrow_mut(|modes| modes.insert(self.number, new));
        mode.set(old)
    }

    /// The legacy default stream cannot be captured. Its code is not measured.
    pub(crate) fn cuStreamBeginCapture_v2(
        &self,
        stream: Raw<CUstream_st>,
        mode: CUstreamCaptureMode,
    ) -> Answer {
        let mut state = self.enter()?;
        let of = self.lane(&state, stream.handle())?;
        require(mode.0 <= RELAXED.0)?;
        if matches!(of.lane, Lane::Legacy(_)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if state.is_captured(&of.lane) {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        }
        let number = state.serial;
        state.serial += 1;
        let captured = Captured {
            of,
            last: Vec::new(),
        };
        state.captures.insert(
            number,
            Capture {
                origin: of.lane,
                mode,
                thread: std::thread::current().id(),
                nodes: Vec::new(),
                streams: HashMap::from([(of.lane, captured)]),
                invalid: false,
            },
        );
        Ok(())
    }

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
            state.invalidate(|capture| capture.streams.contains_key(&lane));
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let Some(capture) = state.captures.remove(&number) else {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        };
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
        let mut state = self.enter()?;
        status.required()?;
        let of = self.lane(&state, stream.handle())?;
        let found = match state.capture_of(&of.lane) {
            Some(number) if state.captures[&number].invalid => {
                Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED
            }
            Some(_) => Status::CU_STREAM_CAPTURE_STATUS_ACTIVE,
            None => {
                state.not_beside_a_capture(of)?;
                Status::CU_STREAM_CAPTURE_STATUS_NONE
            }
        };
        status.set(found)
    }
}

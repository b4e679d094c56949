//! Captures: work submitted to a stream becomes a graph instead of running.
//!
//! Which calls are refused in a capture or beside one, and with which code, was measured on an H200 (driver 580, CUDA
//! 13.0), except where a comment says otherwise.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cuda_green_sys::{CUresult, CUstreamCaptureMode};

use super::{State, graphs::Node, stream_actions::Action};
use crate::{
    c_args::Answer,
    thread_number::ThreadNumber,
    timeline::{Lane, LaneOf},
};

pub(super) const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
pub(super) const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// A capture that has begun and not ended.
pub(super) struct Capture {
    /// The stream in which it began.
    pub(super) origin: Lane,
    pub(super) mode: CUstreamCaptureMode,
    pub(super) thread: ThreadNumber,
    pub(super) nodes: Vec<Node>,
    /// Its streams: the origin, and those that waited for its events.
    streams: HashMap<Lane, Captured>,
    pub(super) invalid: bool,
}

/// A stream in a capture.
struct Captured {
    of: LaneOf,
    /// The nodes that its next node follows.
    last: Vec<usize>,
}

/// A point in a capture, as an event records it: the capture's number, and nodes.
#[derive(Clone)]
pub(super) struct CapturedAt {
    capture: u64,
    nodes: Vec<usize>,
}

impl Capture {
    pub(super) fn begun(of: LaneOf, mode: CUstreamCaptureMode) -> Self {
        let last = Vec::new();
        Self {
            origin: of.lane,
            mode,
            thread: ThreadNumber::current(),
            nodes: Vec::new(),
            streams: HashMap::from([(of.lane, Captured { of, last })]),
            invalid: false,
        }
    }

    pub(super) fn has(&self, lane: &Lane) -> bool {
        self.streams.contains_key(lane)
    }

    /// Returns all nodes that come before some nodes, including these.
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

    /// Returns whether a stream is the legacy default stream and would have to wait for a stream of the capture.
    pub(super) fn holds_up(&self, of: LaneOf) -> bool {
        let follows = |stream: &Captured| stream.of.blocking && stream.of.context == of.context;
        matches!(of.lane, Lane::Legacy(_)) && self.streams.values().any(follows)
    }

    /// Returns whether one of its streams belongs to this context.
    pub(super) fn is_in(&self, context: u64) -> bool {
        let mut streams = self.streams.values();
        streams.any(|stream| stream.of.context == context)
    }

    pub(super) fn is_of(&self, device: usize) -> bool {
        let mut streams = self.streams.values();
        streams.any(|stream| stream.of.device == device)
    }

    /// Returns whether all its streams were joined to the origin.
    pub(super) fn is_joined(&self) -> bool {
        let of_origin = self.streams.get(&self.origin);
        let reached = self.reached(of_origin.map_or(&[], |stream| &stream.last));
        let mut last = self.streams.values().flat_map(|stream| &stream.last);
        last.all(|node| reached.contains(node))
    }
}

impl State {
    /// Returns the number of the capture that a stream is in.
    pub(super) fn capture_of(&self, lane: &Lane) -> Option<u64> {
        self.captures
            .iter()
            .find(|(_, capture)| capture.streams.contains_key(lane))
            .map(|(number, _)| *number)
    }

    pub(super) fn invalidate(&mut self, concerned: impl Fn(&Capture) -> bool) -> bool {
        let mut any = false;
        for capture in self.captures.values_mut().filter(|c| concerned(c)) {
            capture.invalid = true;
            any = true;
        }
        any
    }

    /// Records an action if its stream is in a capture; otherwise returns it, to be done now.
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

    /// Refuses work in the legacy default stream while a blocking stream of its context is in a capture: that work
    /// would have to wait for the stream.
    pub(super) fn not_beside_a_capture(&mut self, of: LaneOf) -> Answer {
        if self.invalidate(|capture| capture.holds_up(of)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        Ok(())
    }

    /// Refuses an operation that no stream in a capture can do, and invalidates the capture.
    pub(super) fn in_no_capture(&mut self, lane: &Lane) -> Answer {
        if self.invalidate(|capture| capture.has(lane)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Refuses to query or wait for a stream in a capture, and for the default stream beside one.
    pub(super) fn not_captured(&mut self, of: LaneOf) -> Answer {
        self.in_no_capture(&of.lane)?;
        self.not_beside_a_capture(of)
    }

    /// Refuses to wait for a context or a device while one of its streams is in a capture, which is invalidated.
    pub(super) fn none_captured(&mut self, device: usize, context: Option<u64>) -> Answer {
        let concerned = |stream: &Captured| {
            stream.of.device == device && context.is_none_or(|context| stream.of.context == context)
        };
        if self.invalidate(|capture| capture.streams.values().any(concerned)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Returns whether it is the legacy default stream, which cannot be captured. A green context's own default
    /// stream is like any other of its streams.
    pub(super) fn is_legacy(&self, of: LaneOf) -> bool {
        matches!(of.lane, Lane::Legacy(_)) && self.devices[of.device].primary == of.context
    }

    /// Returns what an event records in a stream in a capture; `None` if the stream is in none.
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

    /// Makes a stream wait for an event of a capture, which adds the stream to the capture.
    pub(super) fn join_capture(&mut self, of: LaneOf, at: &CapturedAt) -> Answer {
        let own = self.capture_of(&of.lane);
        let is_legacy = self.is_legacy(of);
        let Some(capture) = self.captures.get_mut(&at.capture) else {
            // The capture has ended.
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        };
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if own.is_some_and(|own| own != at.capture) {
            capture.invalid = true;
            self.invalidate(|capture| capture.streams.contains_key(&of.lane));
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
        }
        if is_legacy {
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

    /// Returns why an event that was recorded in a capture cannot be queried: the capture is running, or has ended.
    pub(super) fn cannot_ask(&self, at: &CapturedAt) -> CUresult {
        if self.captures.contains_key(&at.capture) {
            CUresult::CUDA_ERROR_CAPTURED_EVENT
        } else {
            CUresult::CUDA_ERROR_INVALID_VALUE
        }
    }

    /// Invalidates the capture in which an event was recorded.
    pub(super) fn spoil(&mut self, at: &CapturedAt) {
        if let Some(capture) = self.captures.get_mut(&at.capture) {
            capture.invalid = true;
        }
    }

    /// Refuses to let a stream in a capture wait for work outside of it.
    pub(super) fn isolated(&mut self, of: LaneOf) -> Answer {
        if self.invalidate(|capture| capture.streams.contains_key(&of.lane)) {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        }
        self.not_beside_a_capture(of)
    }

    /// Returns whether a stream is in a capture that is still valid.
    pub(super) fn is_captured(&self, lane: &Lane) -> bool {
        self.capture_of(lane).is_some()
    }
}

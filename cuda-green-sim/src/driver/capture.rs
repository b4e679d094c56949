//! Captures: what is asked of a stream becomes a graph instead of being done.
//!
//! Which calls are refused in a capture, and with which code, is from the 13.5 header; what that leaves open
//! is measured, or says that it is not.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    thread::ThreadId,
};

use cuda_green_sys::{CUresult, CUstreamCaptureMode};

use super::{State, actions::Action, graphs::Node};
use crate::{
    raw::Answer,
    timeline::{Lane, LaneOf},
};

pub(super) const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
pub(super) const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// A capture that has begun and not ended.
pub(super) struct Capture {
    /// The stream in which it began.
    pub(super) origin: Lane,
    pub(super) mode: CUstreamCaptureMode,
    pub(super) thread: ThreadId,
    pub(super) nodes: Vec<Node>,
    /// Its streams: the origin, and those that waited for events of it.
    streams: HashMap<Lane, Captured>,
    pub(super) invalid: bool,
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
    pub(super) fn begun(of: LaneOf, mode: CUstreamCaptureMode) -> Self {
        let last = Vec::new();
        Self {
            origin: of.lane,
            mode,
            thread: std::thread::current().id(),
            nodes: Vec::new(),
            streams: HashMap::from([(of.lane, Captured { of, last })]),
            invalid: false,
        }
    }

    pub(super) fn has(&self, lane: &Lane) -> bool {
        self.streams.contains_key(lane)
    }

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
    pub(super) fn is_joined(&self) -> bool {
        let of_origin = self.streams.get(&self.origin);
        let reached = self.reached(of_origin.map_or(&[], |stream| &stream.last));
        let mut last = self.streams.values().flat_map(|stream| &stream.last);
        last.all(|node| reached.contains(node))
    }
}

impl State {
    /// The capture that a stream is in, by its number.
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
    pub(super) fn not_beside_a_capture(&mut self, of: LaneOf) -> Answer {
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

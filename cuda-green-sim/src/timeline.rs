//! Virtual time: when each piece of work starts and ends, on which SMs, by a model of the hardware.
//!
//! Nothing here executes anything. Work is put into lanes (streams), waits for its dependencies, and then for room on
//! its SMs. The clock is the host's: it advances where the host waits or spends time, and the GPU's progress up to
//! then is computed in the order of its events. So the same calls in the same order always give the same times.
//!
//! `order` has the dependencies of work, `gpu` the model of SMs and blocks, `gates` the work whose effect is to come.

mod gates;
mod gpu;
mod order;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gates::Gate;
pub(crate) use gates::{Effect, Held};
use gpu::Gpu;
pub(crate) use gpu::SmLimits;
use order::{LaneState, Op};

use crate::thread_number::ThreadNumber;

/// The host's time for a launch, and between a kernel's end and the end of the wait for it. Together they are the 7.6
/// us that launch and synchronisation take for an empty kernel (measured on an H200).
pub(crate) const LAUNCH_NS: u64 = 2_600;
const WAKE_NS: u64 = 5_000;

/// The host's time for a query whether work is done, so that a polling loop comes to an end.
pub(crate) const QUERY_NS: u64 = 1_000;

/// Kernels that a stream holds before the next launch waits.
const LANE_DEPTH: usize = 1024;

/// A kernel that takes time.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) blocks: u64,
    /// Threads and bytes of shared memory of a block.
    pub(crate) threads: u32,
    pub(crate) shared: u32,
    /// The time of a block with an SM to itself, in nanoseconds.
    pub(crate) block_ns: f64,
    /// The part of an SM that a block keeps busy in that time.
    pub(crate) load: f64,
    /// The priority; lower numbers come first.
    pub(crate) priority: i32,
    pub(crate) sms: Vec<u32>,
}

impl Work {
    fn takes_time(&self) -> bool {
        self.block_ns > 0.0 && self.blocks > 0
    }
}

/// One node of a launched graph.
#[derive(Debug)]
pub(crate) struct GraphNode {
    pub(crate) work: Option<Work>,
    pub(crate) effect: Effect,
    /// The nodes before it, by their indices in the graph, where they come earlier.
    pub(crate) after: Vec<usize>,
    /// Other work that it waits for.
    pub(crate) waits: Vec<Mark>,
}

/// A queue of work in order: a stream, or one of a context's default streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Stream(u64),
    Legacy(u64),
    PerThread(u64, ThreadNumber),
}

/// A lane's owner: its device, its context's number, and whether it waits for the legacy default stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneOf {
    pub(crate) lane: Lane,
    pub(crate) device: usize,
    pub(crate) context: u64,
    pub(crate) blocking: bool,
}

/// The time when recorded work is done; shared between an event and the work before it.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    op: u64,
    done: Arc<AtomicU64>,
}

impl Mark {
    /// Returns the time in nanoseconds, once the work is done.
    pub(crate) fn time(&self) -> Option<u64> {
        Some(self.done.load(Ordering::Relaxed)).filter(|time| *time != u64::MAX)
    }
}

/// A launched graph.
#[derive(Debug)]
pub(crate) struct GraphRun {
    /// The end of each node, and the gate before its effect, if that has to wait.
    pub(crate) nodes: Vec<(Mark, Option<Held>)>,
    pub(crate) end: Mark,
}

/// The clock and all work that is not done.
#[derive(Debug)]
pub(crate) struct Timeline {
    now: u64,
    /// The time of the last event that was computed: never later than `now`, except within a wait.
    clock: u64,
    next: u64,
    ops: HashMap<u64, Op>,
    lanes: HashMap<Lane, LaneState>,
    /// Lanes that ended while their work continues; waits for their contexts and devices include it.
    ended: Vec<LaneState>,
    /// The work that later work in a context has to wait for.
    barriers: HashMap<u64, u64>,
    /// The closed gates, by their work.
    gates: HashMap<u64, Gate>,
    gpus: Vec<Gpu>,
    events: BinaryHeap<Reverse<(u64, usize, usize, u64)>>,
}

impl Timeline {
    /// Makes a timeline of devices with this many SMs each.
    pub(crate) fn new(devices: usize, sms: u32, limits: SmLimits) -> Self {
        Self {
            now: 0,
            clock: 0,
            next: 1,
            ops: HashMap::new(),
            lanes: HashMap::new(),
            ended: Vec::new(),
            barriers: HashMap::new(),
            gates: HashMap::new(),
            gpus: (0..devices).map(|_| Gpu::new(sms, limits)).collect(),
            events: BinaryHeap::new(),
        }
    }

    /// Returns the host's time in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Advances the host's time.
    pub(crate) fn spend(&mut self, ns: u64) {
        self.now = self.now.saturating_add(ns);
        while self.next_event().is_some_and(|time| time <= self.now) {
            self.step();
        }
        self.clock = self.now;
    }

    /// Puts work into a lane or, without work, a point that is reached when everything before it and all of `after`
    /// is done. If the lane is full, the host waits first.
    pub(crate) fn submit(&mut self, of: LaneOf, work: Option<Work>, after: &[&Mark]) {
        self.submit_effect(of, work, Effect::None, after);
    }

    /// Does the same for work with an effect. Returns the gate before the effect, if that has to wait.
    pub(crate) fn submit_effect(
        &mut self,
        of: LaneOf,
        work: Option<Work>,
        effect: Effect,
        after: &[&Mark],
    ) -> Option<Held> {
        let work = work.filter(Work::takes_time);
        if work.is_some() {
            self.spend(LAUNCH_NS);
            while self
                .lanes
                .get(&of.lane)
                .filter(|lane| !self.waits_for_gate(lane.tail))
                .is_some_and(|lane| lane.kernels >= LANE_DEPTH)
                && self.step()
            {}
            self.catch_up(0);
        }
        let mut deps = self.before(of);
        deps.extend(after.iter().map(|mark| mark.op));
        let op = Op {
            work,
            effect,
            ..Op::point(Some(of.lane), of.device, of.context)
        };
        let op = self.add(&deps, op);
        self.set_tail(of, op);
        self.held(op)
    }

    /// Puts a graph into a lane: its first nodes follow the lane's work and `after`, later work of the lane follows
    /// all of it.
    pub(crate) fn submit_graph(
        &mut self,
        of: LaneOf,
        nodes: Vec<GraphNode>,
        after: &[&Mark],
    ) -> GraphRun {
        let takes_time = |node: &GraphNode| node.work.as_ref().is_some_and(Work::takes_time);
        if nodes.iter().any(takes_time) {
            self.spend(LAUNCH_NS);
        }
        let mut before = self.before(of);
        before.extend(after.iter().map(|mark| mark.op));
        let mut run: Vec<(Mark, Option<Held>)> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let mut deps: Vec<u64> = node
                .after
                .iter()
                .filter_map(|index| run.get(*index))
                .map(|(mark, _)| mark.op)
                .collect();
            if deps.is_empty() {
                deps.clone_from(&before);
            }
            deps.extend(node.waits.iter().map(|mark| mark.op));
            let op = Op {
                work: node.work.filter(Work::takes_time),
                effect: node.effect,
                ..Op::point(None, of.device, of.context)
            };
            let op = self.add(&deps, op);
            let end = self.add_mark(None, of.device, of.context, &[op]);
            run.push((end, self.held(op)));
        }
        let mut deps: Vec<u64> = run.iter().map(|(mark, _)| mark.op).collect();
        deps.append(&mut before);
        let end = self.add_mark(Some(of.lane), of.device, of.context, &deps);
        self.set_tail(of, end.op);
        GraphRun { nodes: run, end }
    }

    /// Marks the end of all work in a lane.
    pub(crate) fn mark(&mut self, of: LaneOf) -> Mark {
        let deps = self.before(of);
        let mark = self.add_mark(Some(of.lane), of.device, of.context, &deps);
        self.set_tail(of, mark.op);
        mark
    }

    /// Marks the end of all work in all lanes of a context.
    pub(crate) fn mark_context(&mut self, device: usize, context: u64) -> Mark {
        let deps = self.tails(context);
        self.add_mark(None, device, context, &deps)
    }

    /// Marks the end of all work of a device.
    pub(crate) fn mark_device(&mut self, device: usize) -> Mark {
        let lanes = self.all_lanes().filter(|lane| lane.device == device);
        let deps: Vec<u64> = lanes.map(|lane| lane.tail).collect();
        self.add_mark(None, device, 0, &deps)
    }

    /// Makes later work of a context wait, in existing and later lanes.
    pub(crate) fn context_waits(&mut self, device: usize, context: u64, mark: &Mark) {
        let mut deps = vec![mark.op];
        deps.extend(self.barriers.get(&context));
        let barrier = self.add(&deps, Op::point(None, device, context));
        self.barriers.insert(context, barrier);
        let lanes: Vec<Lane> = self
            .lanes
            .iter()
            .filter(|(_, state)| state.context == context)
            .map(|(lane, _)| *lane)
            .collect();
        for lane in lanes {
            let tail = self.lanes.get(&lane).map_or(0, |state| state.tail);
            let op = self.add(&[tail, barrier], Op::point(Some(lane), device, context));
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.tail = op;
            }
        }
    }

    /// Returns whether a lane's work is done.
    pub(crate) fn lane_is_done(&self, of: LaneOf) -> bool {
        self.lanes
            .get(&of.lane)
            .is_none_or(|state| !self.ops.contains_key(&state.tail))
    }

    /// Makes the host wait for recorded work.
    pub(crate) fn wait_mark(&mut self, mark: &Mark) {
        self.wait_work(&[mark.op]);
    }

    /// Returns all work of a context or a device that is not done, in no order.
    pub(crate) fn work_of(&self, device: usize, context: Option<u64>) -> Vec<u64> {
        let of =
            |op: &Op| op.device == device && context.is_none_or(|context| op.context == context);
        let ops = self.ops.iter().filter(|(_, op)| of(op));
        ops.map(|(id, _)| *id).collect()
    }

    /// Makes the host wait for work. The order does not matter: the host continues when the last one is done.
    pub(crate) fn wait_work(&mut self, work: &[u64]) {
        let mut waited = false;
        for op in work {
            while self.ops.contains_key(op) && self.step() {
                waited = true;
            }
        }
        self.catch_up(if waited { WAKE_NS } else { 0 });
    }

    /// Ends a lane. Its work continues.
    pub(crate) fn end_lane(&mut self, lane: Lane) {
        let ended = self.lanes.remove(&lane);
        self.ended.extend(ended);
        self.forget_done();
    }

    /// Ends a context and its lanes. Its work continues.
    pub(crate) fn end_context(&mut self, context: u64) {
        let lanes = self.lanes.extract_if(|_, state| state.context == context);
        self.ended.extend(lanes.map(|(_, state)| state));
        self.barriers.remove(&context);
        self.forget_done();
    }

    /// Forgets the ended lanes whose work is done.
    fn forget_done(&mut self) {
        let ops = &self.ops;
        self.ended.retain(|lane| ops.contains_key(&lane.tail));
    }

    /// Advances the host's time to the time that was computed, if that is later, and by `extra`.
    fn catch_up(&mut self, extra: u64) {
        let late = self.clock.saturating_sub(self.now);
        self.spend(late.saturating_add(extra));
    }
}

#[cfg(test)]
mod tests;
